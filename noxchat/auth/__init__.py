"""The room of accounts: registering, signing in and out, passwords, sessions."""

from flask import Blueprint

blueprint = Blueprint("auth", __name__)

from noxchat.auth import routes as routes  # noqa: E402
