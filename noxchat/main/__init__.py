"""The main room: home, profiles, settings, pictures, and what machines ask."""

from flask import Blueprint

blueprint = Blueprint("main", __name__)

from noxchat.main import files as files  # noqa: E402
from noxchat.main import health as health  # noqa: E402
from noxchat.main import routes as routes  # noqa: E402
from noxchat.main import settings as settings  # noqa: E402
