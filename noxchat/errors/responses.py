"""Error pages and notices."""

from flask import current_app, g, make_response, render_template, request, url_for
from flask_babel import gettext as _

from noxchat.web import htmx
from noxchat.web.htmx import render_partial
from noxchat.web.login import skip_user_loading
from noxchat.web.templating import max_picture_megabytes

NO_COOKIE = "no cookie"  # a kind of 400


def error_page(code: int, kind: str = "") -> dict:
    """Return what an error page shows: a moon, a title, a text, and links to go on.

    kind: NO_COOKIE, or empty for the usual page of the code.
    """
    again = {"href": htmx.page_path(), "label": _("Try again")}
    reload = {"href": htmx.page_path(), "label": _("Load it again")}
    form = {"href": _upload_form_path(), "label": _("Back to the form")}
    home = {"href": "/", "label": _("Go home")}
    size = max_picture_megabytes()
    too_large = _("Pictures can be up to %(size)s MB. Make it smaller and try again. Nothing was changed.", size=size)
    no_cookie = _(
        "Your browser sent no cookie. Load the page again and repeat the last step; if this comes back, allow cookies"
        " for %(url)s. Nothing was changed.",
        url=current_app.config["BASE_URL"],
    )
    pages = {
        NO_COOKIE: ("crescent", _("Cookies are needed"), no_cookie, [reload, home]),
        400: (
            *("crescent", _("This page is out of date")),
            *(_("Nothing was changed. Load it again and repeat the last step."), [reload, home]),
        ),
        403: ("crescent", _("You do not have access"), _("This page or action is not open to you."), [home]),
        404: (
            *("new", _("Page not found")),
            *(_("The page has moved or does not exist. Check the address, or start again from home."), [home]),
        ),
        405: (
            *("new", _("This page cannot be opened directly")),
            *(_("Its address is only used by forms. Start again from home."), [home]),
        ),
        408: (
            *("half", _("The request was incomplete")),
            *(_("The connection is too slow, or was interrupted. Nothing was changed; try again."), [again, home]),
        ),
        409: ("half", _("This has changed"), _("Somebody was faster. Look at it again."), [again, home]),
        413: ("gibbous", _("This is too large"), too_large, [form]),
        422: (
            *("half", _("The form has errors")),
            *(_("Something in the form cannot be accepted. Go back and check it."), [again, home]),
        ),
        429: (
            *("half", _("Too many attempts")),
            *(_("You did this too often in a short time. Wait a while, then try again."), [home]),
        ),
        500: (
            *("full", _("Something went wrong")),
            *(_("The error was logged. What was saved before is safe."), [again, home]),
        ),
        503: (
            *("full", _("Temporarily unavailable")),
            *(_("The database does not answer right now. Nothing is lost; try again soon."), [again, home]),
        ),
    }
    moon, title, text, links = pages.get(kind or code) or pages[500 if code >= 500 else 400]
    return {"moon": moon, "title": title, "text": text, "links": links}


def _upload_form_path() -> str:
    """Return the path of the page on which a picture is chosen, the only form for large uploads."""
    return url_for("main.edit_profile") if request.url_rule and request.endpoint == "main.edit_profile" else "/"


def error_response(code: int, text: str = "", headers: dict | None = None, kind: str = ""):
    """Answer with an error as a page, or as a notice when htmx asked. Does not use the database."""
    skip_user_loading()
    context = error_page(code, kind)
    if text:
        context["text"] = text
    context.update(code=code, request_id=g.get("request_id", "-"), request_name=f"{request.method} {request.path}")
    if htmx.wants_fragment():
        fragment = render_partial("partials/errors/notice.html", **context)
        response = htmx.retarget_to_toasts(make_response(fragment, code))
    else:
        response = make_response(render_template("errors/error.html", **context), code)
    response.headers.update(headers or {})
    return response
