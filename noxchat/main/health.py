"""What machines ask: does the process live, and can it serve?"""

from flask import current_app, jsonify

from noxchat import health
from noxchat.main import blueprint
from noxchat.security import for_probes


@blueprint.route("/healthz")
@for_probes
def healthz():
    """Answer while the process lives, whatever else is down."""
    return {"status": "ok"}


@blueprint.route("/readyz")
@for_probes
def readyz():
    """Answer 200 when the database answers and its tables are current; the rest is told and never fails it."""
    database = health.database()
    body = {
        "status": "ok" if database.ok else "unavailable",
        "database": database.words,
        "mail": health.mail_server(current_app.config).words,
        "elasticsearch": health.elasticsearch().words if database.ok else "unknown while the database does not answer",
        "limits": health.limits_store().words,
    }
    return jsonify(body), 200 if database.ok else 503
