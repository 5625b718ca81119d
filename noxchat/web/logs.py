"""logs/noxchat.log: one line per event, with the request's id; rotated by size, readable by its owner only.

Nothing secret is written: no field's text, no cookie, no token, no e-mail; URLs appear as routes, not as typed.
"""

import grp
import logging
import os
import pwd
import re
import secrets
import sys
import time
from pathlib import Path

from concurrent_log_handler import ConcurrentRotatingFileHandler
from flask import Flask, g, has_request_context, request

from noxchat.files import give_to_owner, make_private_folder

log = logging.getLogger("noxchat")

REFUSALS = {400, 403, 404, 413, 429}
# Whatever could begin a new line or control a terminal.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class SingleLineFormatter(logging.Formatter):
    """Formats each event as one line, tracebacks included."""

    converter = staticmethod(time.gmtime)

    def __init__(self):
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s [%(request_id)s] %(name)s: %(message)s")
        self.datefmt = "%Y-%m-%dT%H:%M:%S"

    def format(self, record):
        record.request_id = g.get("request_id", "-") if has_request_context() else "-"
        return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), super().format(record))


def init_app(app: Flask):
    """Open the log and write a line for each request.

    With LOG_TO=stdout it goes to standard output, for containers. If the folder cannot be written, it goes to standard
    error, with a warning.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)] if app.debug else []
    problem = None
    try:
        is_file = app.config["LOG_TO"] == "file"
        handlers.append(_file_handler(app) if is_file else logging.StreamHandler(sys.stdout))
    except OSError as error:
        problem = f"{app.config['LOG_DIR']} cannot be written ({error.strerror}): the log goes to standard error"
        handlers = [logging.StreamHandler(sys.stderr)]
    for old in log.handlers[:]:
        log.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(SingleLineFormatter())
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = app.testing
    app.logger = log  # instead of the one that Flask would create
    for warning in filter(None, [problem, *app.config["warnings"]]):
        log.warning(warning)
    app.before_request(_begin_request)
    app.after_request(_log_request)


def _file_handler(app: Flask) -> logging.Handler:
    """Return the handler for the log file. Raises OSError when that cannot be written."""
    make_private_folder(app.config["LOG_DIR"])
    path = app.config["LOG_DIR"] / "noxchat.log"
    # The handler itself would only fail at the first line.
    # Not through a link, which could lead root to any file.
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab") as file:
        os.fchmod(file.fileno(), 0o600)
        give_to_owner(file.fileno(), app.config["DATA_DIR"])
    # The standard library's handler loses lines when several processes rotate one file.
    return ConcurrentRotatingFileHandler(
        str(path),
        maxBytes=app.config["LOG_FILE_BYTES"],
        backupCount=app.config["LOG_FILES"],
        encoding="utf-8",
        chmod=0o600,
        owner=_owner_for_root(app.config["DATA_DIR"]),
    )


def _owner_for_root(data_dir: Path) -> tuple[str, str] | None:
    """Return to whom log files belong that a command creates as root: the user and group that the server runs as."""
    if os.geteuid() != 0:
        return None
    found = data_dir.stat()
    try:
        return pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
    except KeyError:  # no names, as in containers
        return None


def _begin_request():
    g.request_id = secrets.token_hex(6)
    g.began = time.perf_counter()


def _log_request(response):
    response.headers["X-Request-ID"] = g.request_id
    if request.endpoint != "static":
        # The route, not the path: paths contain reset tokens, and whatever people type.
        milliseconds = (time.perf_counter() - g.began) * 1000
        # The address of whoever is refused is for programs that ban who tries too often (deploy/fail2ban).
        address = f" from {request.remote_addr}" if response.status_code in REFUSALS else ""
        route, code = request.url_rule or "-", response.status_code
        log.info("%s %s %s %.0f ms%s", request.method, route, code, milliseconds, address)
    return response
