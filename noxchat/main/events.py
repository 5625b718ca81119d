"""The event stream of somebody who is logged in."""

from flask import Response, current_app, request
from flask_login import current_user

from noxchat.event_stream import EventStream
from noxchat.main import blueprint

RETRY_SECONDS = 30


@blueprint.route("/events")
def events():
    """Stream what changes, as server-sent events; an empty 503 where there are too many streams.

    It begins after `Last-Event-ID` or `?after=`. `?tab=` names the tab, which is not told of its own changes.
    """
    streams = current_app.extensions["event_streams"]
    stream = EventStream(
        current_user.id,
        current_user.session.id,
        last_event_id(),
        request.args.get("tab", "")[:16],
    )
    if not streams.open(stream):
        return Response(status=503, headers={"Retry-After": str(RETRY_SECONDS)})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(streams.lines(stream), mimetype="text/event-stream", headers=headers)
    # Also when no line was ever read, as after HEAD.
    response.call_on_close(lambda: stream.is_detached or streams.discard(stream))
    return response


def last_event_id() -> int:
    """Return the latest event that the client has seen; 0 where it names none."""
    last = request.headers.get("Last-Event-ID") or request.args.get("after", "")
    return int(last) if last.isascii() and last.isdigit() and len(last) < 19 else 0
