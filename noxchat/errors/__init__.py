"""The errors blueprint: what people see when something was refused or failed, as a page or as a fragment."""

from flask import Blueprint

blueprint = Blueprint("errors", __name__)

from noxchat.errors import handlers as handlers  # noqa: E402
from noxchat.errors import responses as responses  # noqa: E402
