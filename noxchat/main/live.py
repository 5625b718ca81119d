"""The one stream of events of whoever is signed in."""

from flask import Response, current_app, request
from flask_login import current_user

from noxchat.doorbell import Stream
from noxchat.main import blueprint

RETRY_SECONDS = 30


@blueprint.route("/events")
def events():
    """Stream what changes, as server-sent events; an empty 503 where there is no room.

    It begins after `Last-Event-ID` or `?after=`. `?tab=` names the tab, which is not told what it did.
    """
    last = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    stream = Stream(
        current_user.id,
        current_user.session.id,
        int(last) if last.isascii() and last.isdigit() and len(last) < 19 else 0,
        request.args.get("tab", "")[:16],
        request.environ.get("gunicorn.socket"),
    )
    doorbell = current_app.extensions["doorbell"]
    if not doorbell.open(stream):
        return Response(status=503, headers={"Retry-After": str(RETRY_SECONDS)})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(doorbell.lines(stream), mimetype="text/event-stream", headers=headers)
    response.call_on_close(lambda: doorbell.leave(stream))  # also when nobody ever read a line, as after HEAD
    return response
