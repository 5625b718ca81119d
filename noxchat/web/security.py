"""The checks of every request before a route is called, and the security headers of every response.

The order in `check_request` is deliberate: cheap checks first, and no body is read from somebody who may not send one.
"""

import hmac
import logging
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote_to_bytes

from flask import Flask, abort, current_app, g, request
from flask_login import current_user
from flask_wtf.csrf import CSRFError

from config import split_host
from noxchat.extensions import csrf, db
from noxchat.web import htmx

log = logging.getLogger("noxchat.security")

PEER = "noxchat.peer"  # in the WSGI environment: the address of the other end of the connection, a proxy perhaps
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# Of OWASP's list (https://owasp.org/www-project-secure-headers): whatever our pages do not use is forbidden.
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
    """Mark a route that can be used without being logged in; all others require it."""
    view.is_public = True
    return view


def machine_endpoint(view):
    """Mark a public route for machines: session, cookies and account are never touched."""
    view.is_public = view.is_machine_endpoint = True
    return view


def probe_endpoint(view):
    """Mark a machine endpoint for health probes, which may use any host name."""
    view.is_probe = True
    return machine_endpoint(view)


def may_monitor() -> bool:
    """Tell whether a request is from this machine, or has the token of MONITORING_TOKEN."""
    token = current_app.config["MONITORING_TOKEN"]
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and hmac.compare_digest(given.encode(), token.encode()):
        return True
    # Whoever comes through a proxy that is not named in TRUSTED_PROXIES seems to be on this machine.
    peer = read_address(request.environ.get(PEER, ""))
    is_trusted = any(peer in network for network in current_app.config["TRUSTED_PROXIES"]) if peer else False
    if "X-Forwarded-For" in request.headers and not is_trusted:
        return False
    return ip_address(request.remote_addr or "0.0.0.0").is_loopback  # noqa: S104


def init_app(app: Flask):
    """Check every request, and add the security headers to every response."""
    app.before_request(check_request)
    app.after_request(add_security_headers)


def check_request():
    """Refuse what no route should have to handle: foreign hosts, invalid UTF-8, anonymous users, forged posts."""
    view = current_app.view_functions.get(request.endpoint or "")
    is_probe = getattr(view, "is_probe", False)
    if not is_probe and not is_trusted_host(request.environ.get("HTTP_HOST", "")):
        log.warning("foreign host refused: from %s", request.remote_addr)
        g.skip_session = True
        abort(400)
    valid_url = _is_valid(request.environ["PATH_INFO"].encode("latin-1")) and _is_valid(request.query_string)
    if not valid_url:
        g.skip_session = True
        abort(400)
    if view is None or getattr(view, "is_machine_endpoint", False) or request.endpoint == "static":
        g.skip_session = True
        return None
    # Also of public pages, which are in the language and theme of the account.
    is_logged_in = current_user.is_authenticated
    if not is_logged_in and not getattr(view, "is_public", False):
        return htmx.login_required()
    if request.method not in SAFE_METHODS:
        _check_post()
    return None


def _check_post():
    origin = request.headers.get("Origin")
    if origin is not None and not _is_own(origin):
        log.warning("csrf refused: foreign origin, from %s", request.remote_addr)
        raise CSRFError("foreign origin")
    if request.mimetype != "multipart/form-data":
        request.max_content_length = current_app.config["MAX_FORM_MEMORY_SIZE"]
        if not _is_valid(request.get_data().replace(b"+", b" ")):
            abort(400)
    if not all(_is_text(name) and _is_text(value) for name, value in request.form.items(multi=True)):
        abort(400)
    try:
        csrf.protect()
    except CSRFError:
        log.warning("csrf refused: token missing or stale, from %s", request.remote_addr)
        raise
    # Release the connection: hashing or decoding a picture may take a while now.
    db.session.commit()


def _is_own(origin: str) -> bool:
    if origin == "null":
        # Browsers send this from a page without referrer, such as that of a reset link. They then say in another header
        # where the request came from (https://www.w3.org/TR/fetch-metadata).
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    scheme = current_app.config["PREFERRED_URL_SCHEME"]  # behind a proxy the request has another
    return _origin(origin) in {_origin(current_app.config["BASE_URL"]), _origin(f"{scheme}://{request.host}")}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of an origin, in the form in which they can be compared."""
    scheme, _separator, netloc = url.partition("://")
    host, port = split_host(netloc)
    return scheme, host, {"http": 80, "https": 443}.get(scheme) if port is None else port


def is_trusted_host(header: str) -> bool:
    """Tell whether a Host header names a host of ours: one in HOSTS, or a subdomain of one that begins with a dot."""
    host, _port = split_host(header)
    return host is not None and any(
        host == own or own.startswith(".") and (host.endswith(own) or host == own[1:])
        for own in current_app.config["HOSTS"]
    )


def _is_valid(encoded: bytes) -> bool:
    """Tell whether the percent-encoded bytes of a URL or a form are valid UTF-8 without NUL."""
    try:
        return _is_text(unquote_to_bytes(encoded).decode())
    except UnicodeDecodeError:
        return False


def _is_text(text: str) -> bool:
    """Tell whether a text can be stored: no database accepts NUL, and U+FFFD stands for invalid UTF-8."""
    return "\0" not in text and "\ufffd" not in text


def add_security_headers(response):
    """Add the headers, but not those that a route has set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if current_app.config["SECURE"]:
        subdomains = "; includeSubDomains" if current_app.config["HSTS_SUBDOMAINS"] else ""
        hsts = f"max-age={current_app.config['HSTS_SECONDS']}{subdomains}"
        response.headers.setdefault("Strict-Transport-Security", hsts)
    if response.mimetype == "text/html":
        response.headers.setdefault("Cache-Control", "no-store")
    return htmx.add_vary(response)


class ClientAddress:
    """WSGI middleware that sets REMOTE_ADDR to the client's address behind trusted proxies.

    X-Forwarded-For is believed only from an address in TRUSTED_PROXIES, and read from its end: the first address that
    is not a trusted proxy is the client. Other X-Forwarded headers are never read.
    """

    def __init__(self, app, proxies):
        self.app = app
        self.proxies = proxies

    def __call__(self, environ, start_response):
        environ[PEER] = environ.get("REMOTE_ADDR", "")
        address = read_address(environ[PEER])
        for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
            forwarded = read_address(hop)
            if address is None or forwarded is None or not any(address in network for network in self.proxies):
                break
            address = forwarded
        if address is not None:
            environ["REMOTE_ADDR"] = str(address)
        return self.app(environ, start_response)


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address of X-Forwarded-For; None if it is not one.

    Some proxies write the client's port behind it, and brackets around IPv6 (RFC 7239, 6, asks for both). An IPv4
    address that a socket for IPv6 shows as ::ffff:192.0.2.1 is returned as IPv4.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
