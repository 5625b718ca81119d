"""The settings blueprint: preferences, password, sessions, blocked people, deletion of the account."""

from flask import Blueprint

blueprint = Blueprint("settings", __name__)

from noxchat.settings import routes as routes  # noqa: E402
from noxchat.settings import sessions as sessions  # noqa: E402
