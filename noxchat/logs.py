"""logs/noxchat.log: one line an event, with the request's id, rotated by size, readable by its owner only.

Nothing secret is written: no field's text, no cookie, no token, no letter; addresses appear as routes, not as typed.
"""

import logging
import re
import secrets
import sys
import time

from concurrent_log_handler import ConcurrentRotatingFileHandler
from flask import Flask, g, has_request_context, request

log = logging.getLogger("noxchat")

# Everything that could start a new line, ring a bell or repaint a terminal.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OneLine(logging.Formatter):
    """One event, one line, whatever people typed and however long the traceback."""

    converter = time.gmtime

    def __init__(self):
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s [%(request_id)s] %(name)s: %(message)s")
        self.datefmt = "%Y-%m-%dT%H:%M:%S"

    def format(self, record):
        record.request_id = g.get("request_id", "-") if has_request_context() else "-"
        return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), super().format(record))


def init_app(app: Flask):
    """Open the log and have each request leave a line in it.

    A folder that cannot be written is no reason not to serve: then there is a warning, on standard error.
    """
    handlers = [logging.StreamHandler(sys.stderr)] if app.debug else []
    problem = None
    try:
        app.config["LOG_DIR"].mkdir(parents=True, exist_ok=True)
        path = app.config["LOG_DIR"] / "noxchat.log"
        with open(path, "ab"):  # the handler itself only finds out at the first line
            path.chmod(0o600)
        # The standard library's handler loses lines when several processes rotate one file; this one takes turns.
        handlers.append(
            ConcurrentRotatingFileHandler(
                str(path),
                maxBytes=app.config["LOG_FILE_BYTES"],
                backupCount=app.config["LOG_FILES"],
                encoding="utf-8",
                chmod=0o600,
            )
        )
    except OSError as error:
        problem = f"{app.config['LOG_DIR']} cannot be written ({error.strerror}): the log goes to standard error"
        handlers = [logging.StreamHandler(sys.stderr)]
    for old in log.handlers[:]:
        log.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(OneLine())
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = app.testing
    app.logger = log  # Flask's own, where it would log by itself
    if problem:
        log.warning(problem)
    for warning in app.config["warnings"]:
        log.warning(warning)
    app.before_request(_begin)
    app.after_request(_end)


def _begin():
    g.request_id = secrets.token_hex(6)
    g.began = time.perf_counter()


def _end(response):
    response.headers["X-Request-ID"] = g.request_id
    if request.endpoint != "static":
        # The rule, not the path: paths hold reset tokens, and whatever people type.
        took = (time.perf_counter() - g.began) * 1000
        log.info("%s %s %s %.0f ms", request.method, request.url_rule or "-", response.status_code, took)
    return response
