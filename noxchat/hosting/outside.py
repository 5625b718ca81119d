"""`flask doctor --outside`: looks at NoxChat as a visitor does, at BASE_URL, through whatever is in front of it.

The server answers a signed path with what it sees of the request (main/doctor.py), so that nobody else learns it.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import current_app

from noxchat import tokens
from noxchat.doctor import problem, warning
from noxchat.health import CheckResult, is_loopback

TIMEOUT_SECONDS = 10
FORGED = "203.0.113.77"  # an address of RFC 5737, which nobody has
STREAMED_SECONDS = 0.3  # between the first and the last part, which the server sends a second apart


class Visitor:
    """Sends requests to the host of BASE_URL. Every method raises OSError, http.client.HTTPException."""

    def __init__(self, scheme: str, host: str, port: int | None):
        self.host, self.scheme = host, scheme
        self.port = port or (443 if scheme == "https" else 80)

    def open(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        if self.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_SECONDS)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        connection = self.open()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stream(self, path: str) -> tuple[int, list[float]]:
        """Return the status of an answer, and when each part of it has arrived."""
        connection = self.open()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, [time.monotonic() for _part in iter(lambda: answer.read1(1000), b"")]
        finally:
            connection.close()


def run_checks() -> Iterator[tuple[str, CheckResult]]:
    """Yield the name and the result of each check, up to one without which the others make no sense."""
    config = current_app.config
    parts = urlsplit(config["BASE_URL"])
    visitor = Visitor(parts.scheme, parts.hostname or "", parts.port)
    path = f"/doctor/{tokens.create_doctor_token()}"
    try:
        status, body = visitor.send("GET", path)
    except (OSError, http.client.HTTPException) as error:
        yield "Reached", problem(f"{config['BASE_URL']}: {_reason(error)}")
        return
    seen = _read(body)
    if status != 200 or seen is None:
        yield "Reached", _not_ours(config["BASE_URL"], status)
        return
    yield "Reached", CheckResult(True, config["BASE_URL"])
    yield "TLS", _check_tls(config, visitor)
    yield "Host", _check_host(config, seen)
    yield "Client address", _check_client(config, seen)
    for name, check in (
        ("Forged address", lambda: _check_forgery(visitor, path)),
        ("Body limit", lambda: _check_body(config, visitor, path)),
        ("Streaming", lambda: _check_stream(visitor, path)),
    ):
        try:
            yield name, check()
        except (OSError, http.client.HTTPException) as error:
            yield name, problem(_reason(error))


def _read(body: bytes) -> dict | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "host" in found else None


def _reason(error: Exception) -> str:
    """Return why there was no answer, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"browsers refuse the certificate: {error.verify_message}; get one for this name"
    if isinstance(error, ssl.SSLError):
        return "what answers there speaks no TLS; check the proxy, or write http:// in BASE_URL"
    if isinstance(error, socket.gaierror):
        return "there is no such host; check the name, or enter it in the DNS"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS} s; is a firewall in between?"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; is the proxy running?"
    return f"{getattr(error, 'strerror', None) or type(error).__name__}; check the proxy and its log"


def _not_ours(url: str, status: int) -> CheckResult:
    if status in (502, 503, 504):
        return problem(
            f"{url}: the proxy answers, but does not reach NoxChat ({status}): is it running, is the port right?"
        )
    message = "something else answers: is the name right, does the proxy lead here, has the server the same SECRET_KEY?"
    return problem(f"{url}: {message} ({status})")


def _check_tls(config, visitor: Visitor) -> CheckResult:
    """Check that nobody uses the site without TLS, where cookies for TLS are not sent: such people cannot log in."""
    if not config["SECURE"]:
        return problem("BASE_URL is http://: passwords travel unencrypted; put TLS in front and write https://")
    try:
        status, _body = Visitor("http", visitor.host, None).send("GET", "/")
    except (OSError, http.client.HTTPException):
        return CheckResult(True, "the certificate is valid, and there is no way without TLS")
    if status in (301, 302, 307, 308):
        return CheckResult(True, "the certificate is valid, and http:// redirects")
    return warning(f"http://{visitor.host} answers with {status}: redirect that to https://, or no one can log in")


def _check_host(config, seen: dict) -> CheckResult:
    expected = urlsplit(config["BASE_URL"]).netloc
    if seen["host"].split(":")[0] != expected.split(":")[0]:
        return problem(f"the proxy passes on {seen['host']!r} instead of {expected!r}: proxy_set_header Host $host")
    return CheckResult(True, seen["host"])


def _check_client(config, seen: dict) -> CheckResult:
    peer = ip_address(seen["peer"])
    if seen["forwarded"] and not any(peer in network for network in config["TRUSTED_PROXIES"]):
        return problem(
            f"TRUSTED_PROXIES does not name the proxy, {peer}: everybody has its address, and shares one limit"
        )
    if not seen["forwarded"] and config["SECURE"]:
        return problem("the proxy does not tell who asks: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for")
    return CheckResult(True, seen["client"])


def _check_forgery(visitor: Visitor, path: str) -> CheckResult:
    _status, body = visitor.send("GET", path, headers={"X-Forwarded-For": FORGED})
    seen = _read(body) or {}
    if seen.get("client") != FORGED:
        return CheckResult(True, "is not believed")
    added = seen["forwarded"].rpartition(",")[2].strip()  # by the proxy: who it thinks that asks
    if added != FORGED and is_loopback(added):
        return CheckResult(None, "cannot be told from this machine, which is trusted itself")
    return problem("a visitor can pretend any address: TRUSTED_PROXIES is too wide, or the proxy passes it on")


def _check_body(config, visitor: Visitor, path: str) -> CheckResult:
    size = config["MAX_CONTENT_LENGTH"]
    try:
        status, body = visitor.send("PUT", path, b"x" * size)
    except (ConnectionError, http.client.HTTPException):  # closed while sending
        status, body = 413, b""
    if (_read(body) or {}).get("bytes") != size:
        return problem(
            f"the proxy does not let {size / 1e6:.0f} MB through ({status}): client_max_body_size {size // 10**6 + 2}m"
        )
    return CheckResult(True, f"{size / 1e6:.0f} MB get through")


def _check_stream(visitor: Visitor, path: str) -> CheckResult:
    status, times = visitor.stream(f"{path}/stream")
    if status != 200 or not times:
        return problem(f"the proxy does not pass a stream on ({status}); look at its log")
    if times[-1] - times[0] < STREAMED_SECONDS:
        return problem("the proxy holds answers back until they are complete, so nothing is live: proxy_buffering off")
    return CheckResult(True, "answers arrive as they are sent")
