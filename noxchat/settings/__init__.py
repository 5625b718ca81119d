"""The settings blueprint: preferences, privacy, password, address, invitations, sessions, blocked people, deletion."""

from flask import Blueprint

blueprint = Blueprint("settings", __name__)

from noxchat.settings import email as email  # noqa: E402
from noxchat.settings import invitations as invitations  # noqa: E402
from noxchat.settings import routes as routes  # noqa: E402
from noxchat.settings import sessions as sessions  # noqa: E402
