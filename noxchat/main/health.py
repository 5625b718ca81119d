"""Health endpoints for machines: whether the process lives, and whether it can serve."""

from flask import current_app, jsonify

from noxchat import health
from noxchat.main import blueprint
from noxchat.web.security import probe_endpoint


@blueprint.route("/healthz")
@probe_endpoint
def healthz():
    """Answer while the process lives, whatever else is down."""
    return {"status": "ok"}


@blueprint.route("/readyz")
@probe_endpoint
def readyz():
    """Answer 200 when the database answers and its migrations are current. The rest is reported and never fails it."""
    database = health.check_database()
    body = {
        "status": "ok" if database.ok else "unavailable",
        "database": database.message,
        "writing": health.check_writable().message if database.ok else "unknown: the database is down",
        "mail": health.check_mail_server(current_app.config).message,
        "elasticsearch": health.check_elasticsearch().message if database.ok else "unknown: the database is down",
        "limits": health.check_limits_store().message,
    }
    return jsonify(body), 200 if database.ok else 503
