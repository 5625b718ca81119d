"""The auth blueprint: registering, logging in and out, and the links of e-mails."""

from flask import Blueprint

blueprint = Blueprint("auth", __name__)

from noxchat.auth import email_links as email_links  # noqa: E402
from noxchat.auth import routes as routes  # noqa: E402
