"""The auth blueprint: registering, logging in and out, password reset."""

from flask import Blueprint

blueprint = Blueprint("auth", __name__)

from noxchat.auth import routes as routes  # noqa: E402
