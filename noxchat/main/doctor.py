"""What `flask doctor --outside` asks, by a signed path: what arrives here of a request that goes through the proxy."""

import time

from flask import Response, abort, request

from noxchat import tokens
from noxchat.main import blueprint
from noxchat.web.security import PEER, probe_endpoint, read_address


@blueprint.route("/doctor/<token>", methods=["GET", "PUT"])
@probe_endpoint
def doctor(token):
    """Tell host and addresses of the request, and how long its body is."""
    check(token)
    return {
        "host": request.headers.get("Host", ""),
        "client": request.remote_addr,
        "peer": str(read_address(request.environ.get(PEER, ""))),
        "forwarded": request.headers.get("X-Forwarded-For", ""),
        "bytes": len(request.get_data()),
    }


@blueprint.route("/doctor/<token>/stream")
@probe_endpoint
def doctor_stream(token):
    """Send three parts within a second, as an event stream does."""
    check(token)

    def parts():
        for number in range(3):
            yield f"data: {number}\n\n"
            time.sleep(0.5 if number < 2 else 0)

    return Response(parts(), mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})


def check(token: str):
    """Refuse who was not given the path by the command."""
    if not tokens.verify_doctor_token(token):
        abort(404)
