"""Whole page or fragment: the only file that knows the HX- headers (htmx 4, https://htmx.org/reference)."""

from urllib.parse import urlsplit

from flask import Response, flash, make_response, redirect, render_template, request
from flask_login import current_user
from jinja_partials import render_partial

from noxchat import circle

WITHIN = "_-.~/?=&%+:@,*!'()"  # what a path on this site may hold besides letters and digits


def wants_fragment() -> bool:
    """Tell whether htmx asked for a part of a page. A boosted or a history-restore request wants all of it."""
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-Boosted") != "true"
        and headers.get("HX-History-Restore-Request") != "true"
        and headers.get("HX-Request-Type") != "full"
    )


def show(page: str, fragment: str, status: int = 200, **context) -> Response:
    """Answer with a page, or with its fragment when htmx asked for that.

    page: a template, which renders the fragment by calling the same partial with the same names. To somebody who is
    signed in it is given the counters of its navigation.
    fragment: a partial.
    """
    if wants_fragment():
        return make_response(render_partial(fragment, **context), status)
    if current_user.is_authenticated:
        context["counters"] = circle.counters(current_user)
    return make_response(render_template(page, **context), status)


def changed(*fragments: str, back: str, ok: str = "", kind: str = "ok", status: int = 200) -> Response:
    """Answer a POST that was accepted: for htmx the fragments, joined; for a plain form 303 to `back`.

    fragments: rendered HTML; those beyond the first go out of band.
    ok: what happened, told as a notice in either case. kind: of the notice, `info` when nothing happened, `error` when
    a rule said no. status: for htmx.
    """
    if not wants_fragment():
        if ok:
            flash(ok, kind)
        return redirect(back, 303)
    return make_response("".join([*fragments, toast(ok, kind) if ok else ""]), status)


def moved(url: str, ok: str = "", kind: str = "ok") -> Response:
    """Answer a POST whose result is another page, and tell there what happened."""
    if ok:
        flash(ok, kind)
    if not wants_fragment():
        return redirect(url, 303)
    response = make_response("")
    response.headers["HX-Redirect"] = url
    return response


def sign_in_first(url: str) -> Response:
    """Answer somebody who is not signed in: htmx leaves for the sign-in page as a whole, never inside a list."""
    if not wants_fragment():
        return redirect(url, 302)
    response = make_response("", 401)
    response.headers["HX-Redirect"] = url
    return response


def toast(text: str, kind: str = "ok") -> str:
    """Return a notice that htmx adds to the page's notices."""
    return render_partial("partials/ui/toast.html", text=text, kind=kind)


def beside(response: Response) -> Response:
    """Have htmx add an answer to the page's notices and leave its target alone: what was typed there stays."""
    response.headers["HX-Retarget"] = "#toasts"
    response.headers["HX-Reswap"] = "beforeend"
    return response


def reload(response: Response) -> Response:
    """Have htmx load the whole page anew, since what changed shows everywhere in it; a plain form does so anyway."""
    if wants_fragment():
        response.headers["HX-Refresh"] = "true"
    return response


def tab() -> str:
    """Return which browser tab this request comes from, where our script said so; it is not told what it did itself."""
    return request.headers.get("X-Tab", "")[:16]


def here() -> str:
    """Return the path of this request, with its query."""
    return request.full_path.rstrip("?")


def page_path() -> str:
    """Return the path of the page that the person is looking at; `/` where that is not known or not ours."""
    if not wants_fragment():
        return local_path(here()) if request.url_rule and "GET" in request.url_rule.methods else "/"
    current = urlsplit(request.headers.get("HX-Current-URL", ""))
    if current.netloc != request.host:
        return "/"
    return local_path(current.path + (f"?{current.query}" if current.query else ""))


def local_path(target: str | None) -> str:
    """Return the target if it is a path on this site, else `/`.

    Browsers drop tabs and line ends, and read `\\` as `/`: so only what is plainly a path passes.
    """
    plain = target and target.isascii() and all(char.isalnum() or char in WITHIN for char in target)
    if not plain or not target.startswith("/") or target.startswith("//"):
        return "/"
    return target


def vary(response: Response) -> Response:
    """Tell caches that page and fragment share an address."""
    if response.mimetype == "text/html":
        response.vary.add("HX-Request")
    return response
