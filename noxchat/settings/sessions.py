"""The list of sessions: where one is logged in."""

import logging

from flask import abort, url_for
from flask_babel import gettext as _
from flask_babel import ngettext
from flask_login import current_user

from noxchat import sessions
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.settings import blueprint
from noxchat.web.htmx import changed, redirect_to, render_partial, show
from noxchat.web.login import log_out

log = logging.getLogger("noxchat.auth")

MAX_ID = 2**31 - 1


@blueprint.route("/settings/sessions")
def list_sessions():
    """Show where the person is logged in."""
    return show("settings/sessions.html", "partials/settings/sessions.html", rows=session_rows())


@blueprint.route("/settings/sessions/<int:session_id>/revoke", methods=["POST"])
def revoke_session(session_id):
    """End a session; if it is the current one, log out."""
    if session_id > MAX_ID:
        abort(404)
    begin_write(db.session)
    revoked = sessions.revoke(current_user, session_id)
    db.session.commit()
    if revoked:
        log.info("session ended: user %s", current_user.id)
    if session_id == current_user.session.id:
        log_out()
        return redirect_to(url_for("main.home"), _("You are logged out."))
    return show_changed_sessions(_("That device is logged out.") if revoked else "")


@blueprint.route("/settings/sessions/revoke-others", methods=["POST"])
def revoke_other_sessions():
    """End all sessions except the current one."""
    begin_write(db.session)
    count = sessions.revoke_others(current_user)
    db.session.commit()
    log.info("sessions ended: user %s, %s", current_user.id, count)
    text = ngettext("One other device is logged out.", "%(num)s other devices are logged out.", count) if count else ""
    return show_changed_sessions(text)


def show_changed_sessions(text: str):
    """Answer with the list of sessions and a notice."""
    fragment = render_partial("partials/settings/sessions.html", rows=session_rows())
    return changed(fragment, back=url_for("settings.list_sessions"), ok=text)


def session_rows() -> list[dict]:
    """Return the rows of the list: each session, the name of its device, and whether it is the current one."""
    return [
        {"session": row, "device": device_name(row.user_agent), "is_current": row.id == current_user.session.id}
        for row in sessions.list_all(current_user)
    ]


def device_name(user_agent: str) -> str:
    """Return the name of a browser and its system, for people."""
    browser, system = sessions.device(user_agent)
    if browser and system:
        return _("%(browser)s on %(system)s", browser=browser, system=system)
    return browser or system or _("An unknown device")
