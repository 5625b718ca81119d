"""Endpoints for machines: whether the process lives, whether it can serve, and how it is."""

from flask import Response, abort, current_app, jsonify

from noxchat import health
from noxchat.main import blueprint
from noxchat.web.security import may_monitor, probe_endpoint


@blueprint.route("/healthz")
@probe_endpoint
def healthz():
    """Answer while the process lives, whatever else is down."""
    return {"status": "ok"}


@blueprint.route("/readyz")
@probe_endpoint
def readyz():
    """Answer 200 when the database answers, its migrations are current, and the disk has room; otherwise 503.

    What else is wrong makes the status "degraded". The reasons are for whoever may monitor.
    """
    checks = health.check_readiness(current_app.config)
    is_ready = all(checks[name].ok for name in ("database", "disk"))
    is_well = all(check.ok is not False for check in checks.values())
    status = "unavailable" if not is_ready else "ok" if is_well else "degraded"
    details = {name: check.message for name, check in checks.items()} if may_monitor() else {}
    return jsonify({"status": status, **details}), 200 if is_ready else 503


@blueprint.route("/metrics")
@probe_endpoint
def show_metrics():
    """Send metrics to whoever may monitor."""
    if not may_monitor():
        abort(403)
    return Response(current_app.extensions["metrics"].exposition(), mimetype="text/plain; version=0.0.4")
