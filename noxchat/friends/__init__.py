"""The friends blueprint: the lists of friends and requests, and the friend button, the page of an invitation."""

from flask import Blueprint

blueprint = Blueprint("friends", __name__)

from noxchat.friends import actions as actions  # noqa: E402
from noxchat.friends import invitations as invitations  # noqa: E402
from noxchat.friends import routes as routes  # noqa: E402
