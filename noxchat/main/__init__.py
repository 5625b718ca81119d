"""The main room: home, people, friends, search, settings, pictures, what is told live, and what machines ask."""

from flask import Blueprint

blueprint = Blueprint("main", __name__)

from noxchat.main import files as files  # noqa: E402
from noxchat.main import friends as friends  # noqa: E402
from noxchat.main import health as health  # noqa: E402
from noxchat.main import live as live  # noqa: E402
from noxchat.main import routes as routes  # noqa: E402
from noxchat.main import search as search  # noqa: E402
from noxchat.main import settings as settings  # noqa: E402
