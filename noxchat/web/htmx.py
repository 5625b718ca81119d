"""Whole page or fragment: the only module that knows the HX- headers (htmx 4, https://htmx.org/reference)."""

from typing import Any
from urllib.parse import urlsplit

from flask import current_app, flash, make_response, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response

PATH_PUNCTUATION = "_-.~/?=&%+:@,*!'()"  # what a path on this site may contain besides letters and digits


def render_partial(partial: str, **context) -> Markup:
    """Return a partial as HTML, rendered with these names only, exactly as templates render it."""
    render: Any = current_app.jinja_env.globals["render_partial"]
    return render(partial, **context)


def wants_fragment() -> bool:
    """Tell whether htmx asked for a fragment. A boosted or history-restore request wants the whole page."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-Boosted") != "true"
        and headers.get("HX-History-Restore-Request") != "true"
        and headers.get("HX-Request-Type") != "full"
    )


def targets(element_id: str) -> bool:
    """Tell whether htmx is going to swap the element with this id. (It sends `tag#id`.)"""
    return wants_fragment() and request.headers.get("HX-Target", "").endswith(f"#{element_id}")


def show(page: str, fragment: str, status: int = 200, **context) -> Response:
    """Answer with a page, or with its fragment when htmx asked for that.

    page: a template, which renders the fragment by calling the same partial with the same names. fragment: a partial.
    """
    if wants_fragment():
        return make_response(render_partial(fragment, **context), status)
    return make_response(render_template(page, **context), status)


def changed(
    *fragments: str,
    back: str,
    ok: str = "",
    kind: str = "ok",
    status: int = 200,
    undo: dict | None = None,
    subject: str = "",
) -> Response:
    """Answer a POST that was accepted: for htmx the fragments, joined; for a plain form 303 to `back`.

    fragments: rendered HTML; those after the first are swapped out of band.
    ok: a notice for both. kind: of the notice: `info` when nothing happened, `error` when a rule refused.
    status: for htmx. undo: for a plain form: path and action of the form beside the notice that takes it back.
    subject: what the notice is about; it replaces an earlier one about the same.
    """
    if not wants_fragment():
        if ok:
            message: Any = {"text": ok, "undo": undo} if undo else ok
            flash(message, kind)
        return redirect(back, 303)
    return make_response("".join([*fragments, toast(ok, kind, subject) if ok else ""]), status)


def redirect_to(url: str, ok: str = "", kind: str = "ok") -> Response:
    """Answer a POST whose result is another page: 303, or HX-Redirect for htmx. ok, kind: a notice to show there."""
    if ok:
        flash(ok, kind)
    if not wants_fragment():
        return redirect(url, 303)
    response = make_response("")
    response.headers["HX-Redirect"] = url
    return response


def login_required() -> Response:
    """Answer somebody who is not logged in: 302 to the login page, or 401 with HX-Redirect for htmx."""
    page = page_path()
    login_url = url_for("auth.login", next=None if page == "/" else page)
    if not wants_fragment():
        return redirect(login_url, 302)
    response = make_response("", 401)
    response.headers["HX-Redirect"] = login_url
    return response


def toast(text: str, kind: str = "ok", subject: str = "") -> str:
    """Return a notice that htmx appends to the page's notices. subject: as for `changed`."""
    return render_partial("partials/ui/toast.html", text=text, kind=kind, subject=subject)


def retarget_to_toasts(response: Response) -> Response:
    """Have htmx append an answer to the page's notices instead of swapping its target: what was typed there stays."""
    response.headers["HX-Retarget"] = "#toasts"
    response.headers["HX-Reswap"] = "beforeend"
    return response


def retarget(response: Response, target: str, swap: str = "innerHTML") -> Response:
    """Have htmx swap another element with an answer than the request said. target: a CSS selector. swap: how."""
    response.headers["HX-Retarget"] = target
    response.headers["HX-Reswap"] = swap
    return response


def refresh_page(response: Response) -> Response:
    """Have htmx load the whole page again; a plain form does so anyway."""
    if wants_fragment():
        response.headers["HX-Refresh"] = "true"
    return response


def tab_id() -> str:
    """Return the id of the browser tab that sent the request, as app.js names it; empty without JavaScript."""
    return request.headers.get("X-Tab", "")[:16]


def is_background() -> bool:
    """Tell whether an open page has sent the request by itself, which is no activity of the person."""
    return "X-Background" in request.headers


def current_path() -> str:
    """Return the path of this request, with its query."""
    return request.full_path.rstrip("?")


def page_path() -> str:
    """Return the path of the page that the person is looking at; `/` where that is not known or not on this site."""
    if not wants_fragment():
        is_page = request.url_rule and "GET" in (request.url_rule.methods or ())
        return safe_path(current_path()) if is_page else "/"
    current = urlsplit(request.headers.get("HX-Current-URL", ""))
    if current.netloc != request.host:
        return "/"
    return safe_path(current.path + (f"?{current.query}" if current.query else ""))


def safe_path(target: str | None) -> str:
    """Return a redirect target if it is a path on this site, else `/`.

    Browsers drop tabs and line breaks, and read `\\` as `/`, so only plain characters are allowed.
    """
    if not target or not target.startswith("/") or target.startswith("//"):
        return "/"
    allowed = target.isascii() and all(char.isalnum() or char in PATH_PUNCTUATION for char in target)
    return target if allowed else "/"


def add_vary(response: Response) -> Response:
    """Tell caches that a page and its fragment have the same URL."""
    if response.mimetype == "text/html":
        response.vary.add("HX-Request")
    return response
