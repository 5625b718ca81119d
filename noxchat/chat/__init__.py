"""The chat blueprint: the list of conversations, conversations, their messages and members."""

from flask import Blueprint

blueprint = Blueprint("chat", __name__)

from noxchat.chat import members as members  # noqa: E402
from noxchat.chat import messages as messages  # noqa: E402
from noxchat.chat import routes as routes  # noqa: E402
