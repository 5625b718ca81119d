"""What every request must pass before a route sees it, and the headers that every answer carries.

The order in `guard` is deliberate: cheap refusals first, and no body is read for somebody who may not send one.
"""

import logging
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes

from flask import Flask, abort, current_app, g, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_login import current_user
from flask_wtf.csrf import CSRFError
from werkzeug.sansio.utils import host_is_trusted

from noxchat import htmx
from noxchat.extensions import csrf, db

log = logging.getLogger("noxchat.security")

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# OWASP's list (https://owasp.org/www-project-secure-headers): what a page of ours has no use for is off.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "manifest-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), browsing-topics=()",
    "X-Frame-Options": "DENY",
}


def public(view):
    """Mark a route that people may see without being signed in; all others want it."""
    view.is_public = True
    return view


def for_machines(view):
    """Mark a public route that no person reads: it never touches session, cookies or account."""
    view.is_public = view.is_for_machines = True
    return view


def for_probes(view):
    """Mark a route for machines that ask by whatever address they know, so that its host is not looked at."""
    view.is_probe = True
    return for_machines(view)


def init_app(app: Flask):
    """Have every request guarded and every answer sealed."""
    app.session_interface = SessionInterface()
    app.before_request(guard)
    app.after_request(seal)


def guard():
    """Refuse what no route should have to think about: foreign hosts, text that is none, strangers, forged posts."""
    view = current_app.view_functions.get(request.endpoint)
    is_probe = getattr(view, "is_probe", False)
    if not is_probe and not host_is_trusted(request.environ.get("HTTP_HOST"), current_app.config["HOSTS"]):
        log.warning("foreign host refused")
        g.no_account = True
        abort(400)
    in_address = _decodes(request.environ["PATH_INFO"].encode("latin-1")) and _decodes(request.query_string)
    if not in_address or not all(value.isascii() for value in request.cookies.values()):
        g.no_account = True
        abort(400)
    if view is None or getattr(view, "is_for_machines", False) or request.endpoint == "static":
        g.no_account = True
        return None
    if not getattr(view, "is_public", False) and not current_user.is_authenticated:
        page = htmx.page_path()
        return htmx.sign_in_first(url_for("auth.login", next=None if page == "/" else page))
    if request.method not in SAFE_METHODS:
        _check_post()
    return None


def _check_post():
    origin = request.headers.get("Origin")
    if origin is not None and not _is_own(origin):
        log.warning("csrf refused: foreign origin")
        raise CSRFError("foreign origin")
    if request.mimetype != "multipart/form-data":
        request.max_content_length = current_app.config["MAX_FORM_MEMORY_SIZE"]
        if not _decodes(request.get_data().replace(b"+", b" ")):
            abort(400)
    if not all(_is_text(name) and _is_text(value) for name, value in request.form.items(multi=True)):
        abort(400)
    try:
        csrf.protect()
    except CSRFError:
        log.warning("csrf refused: token missing or stale")
        raise
    # Hashing or a picture may take a while now, in which others may need the connection that the look-up used.
    db.session.commit()


def _is_own(origin: str) -> bool:
    if origin == "null":
        # What a browser sends from a page without referrer, such as the one behind a reset link. It then says itself
        # where the post came from (https://www.w3.org/TR/fetch-metadata).
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    scheme = current_app.config["PREFERRED_URL_SCHEME"]  # behind a proxy the request itself does not know it
    return origin in {current_app.config["BASE_URL"], f"{scheme}://{request.host}"}


def _decodes(sent: bytes) -> bool:
    """Tell whether bytes of an address or a form are text, once their percent signs are resolved."""
    try:
        return _is_text(unquote_to_bytes(sent).decode())
    except UnicodeDecodeError:
        return False


def _is_text(text: str) -> bool:
    """Tell whether this was text when it was sent: NUL fits in no database, U+FFFD stands where UTF-8 was broken."""
    return "\0" not in text and "\ufffd" not in text


class SessionInterface(SecureCookieSessionInterface):
    """Flask's sessions, but where no account plays a part: there Flask-Login would make every answer vary by cookie."""

    def save_session(self, app, session, response):
        if not g.get("no_account"):
            super().save_session(app, session, response)


def seal(response):
    """Add the headers. A route that set one itself has its reasons."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if current_app.config["SECURE"]:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
    if response.mimetype == "text/html":
        response.headers.setdefault("Cache-Control", "no-store")
    return htmx.vary(response)


class ClientAddress:
    """WSGI middleware: who is asking, when known proxies stand in front.

    X-Forwarded-For is believed only from an address that TRUSTED_PROXIES names, and read from its end: the first
    address there that is no such proxy is the client. Other X-Forwarded headers are never read.
    """

    def __init__(self, app, proxies):
        self.app = app
        self.proxies = proxies

    def __call__(self, environ, start_response):
        remote = environ.get("REMOTE_ADDR", "")
        if self.proxies and self._is_proxy(remote):
            for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
                hop = hop.strip()
                if not _is_address(hop):
                    break
                remote = hop
                if not self._is_proxy(hop):
                    break
            environ["REMOTE_ADDR"] = remote
        return self.app(environ, start_response)

    def _is_proxy(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self.proxies)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
