"""The main blueprint: home, profiles, search, pictures, the event stream, and endpoints for machines."""

from flask import Blueprint

blueprint = Blueprint("main", __name__)

from noxchat.main import doctor as doctor  # noqa: E402
from noxchat.main import events as events  # noqa: E402
from noxchat.main import files as files  # noqa: E402
from noxchat.main import health as health  # noqa: E402
from noxchat.main import home as home  # noqa: E402
from noxchat.main import profiles as profiles  # noqa: E402
from noxchat.main import search as search  # noqa: E402
