"""Checks of what is configured and what answers, for `/readyz` and `flask doctor`."""

import shutil
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from flask import current_app
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from noxchat import schema, search
from noxchat.database import Locked, is_read_only
from noxchat.extensions import db
from noxchat.mail import queue, smtp
from noxchat.search import outbox

TIMEOUT_SECONDS = 2  # of each step
MAIL_SECONDS = 8  # of all steps of a thorough check of the mail server
MAX_EMAIL_DELAY_SECONDS = 600
FULL_BYTES = 10_000_000  # free, below which a change may fail halfway
SCARCE_BYTES, SCARCE_SHARE = 2_000_000_000, 0.05  # below both of which there is a warning


class DiskUsage(NamedTuple):
    """Size and free space of a file system, in bytes."""

    total: int
    free: int


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    ok: None where there is nothing to check. message: a sentence, with what to do when `ok` is False.
    is_warning: whether everything works all the same.
    """

    ok: bool | None
    message: str
    is_warning: bool = False


def check_readiness(config) -> dict[str, CheckResult]:
    """Return what `/readyz` tells, by name. Takes a few seconds at most, whatever is down."""
    checks = {"database": (database := check_database()), "disk": check_disk(config)}
    unknown = CheckResult(None, "unknown: the database cannot be used")
    about_database = {"writing": check_writable, "queue": check_email_queue, "elasticsearch": check_elasticsearch}
    checks |= {name: check() if database.ok else unknown for name, check in about_database.items()}
    return checks | {"mail": check_mail_server(config), "limits": check_limits_store()}


def check_database() -> CheckResult:
    """Check that the database answers and its migrations are current."""
    try:
        is_current = schema.is_current()
        db.session.commit()  # an open snapshot would not see the tables that a migration is about to create
    except SQLAlchemyError as error:
        db.session.rollback()
        return CheckResult(False, f"does not answer ({type(error).__name__}): is it running, is the address right?")
    if not is_current:
        return CheckResult(False, "has the tables of another version: run flask --app main db upgrade")
    return CheckResult(True, f"{db.engine.dialect.name}, answers, tables are current")


def check_writable() -> CheckResult:
    """Check that the database can be written. Requires that it answers."""
    try:
        if db.engine.dialect.name == "postgresql":
            read_only = text(
                "SELECT current_setting('transaction_read_only')::bool OR NOT has_table_privilege('users', 'INSERT')"
            )
            problem = db.session.scalar(read_only)
        else:
            db.session.commit()
            connection = db.session.connection(execution_options={"begin": "IMMEDIATE", "busy_timeout": 0})
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num WHERE false")
            problem = False
        db.session.rollback()
    except DBAPIError as error:
        db.session.rollback()
        problem = is_read_only(error)  # or another process is writing just now
    if problem:
        return CheckResult(False, "can only be read: give its files, or its tables, to the user that runs NoxChat")
    return CheckResult(True, "can be written")


CREATE_ADVICE = "create it with ENCODING 'UTF8' and LOCALE 'C.UTF-8'"


def _locale() -> tuple[str, str]:
    """Return PostgreSQL's encoding, and its locale for letters."""
    locale = "SELECT pg_encoding_to_char(encoding), datctype FROM pg_database WHERE datname = current_database()"
    encoding, ctype = db.session.execute(text(locale)).one()
    return encoding, ctype


def check_encoding() -> CheckResult:
    """Check that PostgreSQL can store every letter. Requires that it answers."""
    if db.engine.dialect.name != "postgresql":
        return CheckResult(None, "not needed with SQLite")
    encoding, _ctype = _locale()
    return CheckResult(encoding == "UTF8", f"encoding {encoding}: {CREATE_ADVICE}" if encoding != "UTF8" else "UTF8")


def check_collation() -> CheckResult:
    """Check that PostgreSQL can tell letters of other alphabets from punctuation, which trigrams need."""
    if db.engine.dialect.name != "postgresql":
        return CheckResult(None, "not needed with SQLite")
    encoding, ctype = _locale()
    if encoding != "UTF8" or ctype in {"C", "POSIX"}:
        return CheckResult(False, f"encoding {encoding}, locale {ctype}: {CREATE_ADVICE}")
    return CheckResult(True, f"encoding {encoding}, locale {ctype}")


def _connection_error(host: str, port: int) -> str:
    """Return why a server cannot be connected to; empty when it can."""
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS):
            return ""
    except OSError as error:
        return f"{error.strerror or 'no answer'} after {time.monotonic() - began:.1f} s"


def disk_usage(config) -> dict[Path, DiskUsage]:
    """Return size and free space of the file systems with our folders, by the first folder on each."""
    folders = [config["DATA_DIR"]]
    if config["LOG_TO"] == "file":
        folders.append(config["LOG_DIR"])
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    if url.get_backend_name() == "sqlite" and not str(url.database).startswith("file:"):
        folders.insert(0, Path(str(url.database)).parent)
    existing = {folder.stat().st_dev: folder for folder in reversed(folders) if folder.is_dir()}
    found = {folder: shutil.disk_usage(folder) for folder in reversed(existing.values())}
    return {folder: DiskUsage(usage.total, usage.free) for folder, usage in found.items()}


def check_disk(config) -> CheckResult:
    """Check that there is room for what people write."""
    usages = disk_usage(config)
    if not usages:
        return CheckResult(None, "there is no folder yet")
    folder, usage = min(usages.items(), key=lambda item: item[1].free)
    message = f"{folder} has {_size(usage.free)} free of {_size(usage.total)}"
    if usage.free < FULL_BYTES:
        return CheckResult(False, f"{message}: nothing can be saved; delete something, or enlarge it")
    if usage.free < min(SCARCE_BYTES, usage.total * SCARCE_SHARE):
        return CheckResult(False, f"{message}: delete something, or enlarge it", is_warning=True)
    return CheckResult(True, message)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def check_search() -> CheckResult:
    """Check that the database's search engine has its index."""
    engine = search.database_engine()
    if all(search.has_trigram_index(model.__tablename__) for model in search.models()):
        return CheckResult(True, engine.name)
    advice = "have the database's owner run CREATE EXTENSION pg_trgm, then run flask --app main search reindex"
    return CheckResult(False, f"{engine.name} has no index, so searches are slow with many people: {advice}")


def check_mail_server(config, *, thorough: bool = False) -> CheckResult:
    """Check that the mail server answers.

    thorough: whether to check as well that the connection is as encrypted as it has to be, and that the server accepts
    login and sender. Nothing is sent.
    """
    if not config["MAIL_SERVER"]:
        return CheckResult(None, f"no server is set: e-mails are written to {config['MAIL_DIR'].name}/")
    check = _mail_server_error if thorough else _mail_connection_error
    if error := with_time_limit(MAIL_SECONDS if thorough else TIMEOUT_SECONDS, lambda: check(config)):
        return CheckResult(False, f"{error}: e-mails wait in the queue")
    is_encrypted = config["MAIL_USE_TLS"] or config["MAIL_USE_SSL"]
    logs_in = config["MAIL_USERNAME"] and config["MAIL_PASSWORD"]
    if logs_in and not is_encrypted and not is_loopback(config["MAIL_SERVER"]):
        message = "answers, but the password travels unencrypted: set MAIL_USE_TLS or MAIL_USE_SSL"
        return CheckResult(False, message, is_warning=True)
    return CheckResult(True, _mail_success(thorough, is_encrypted))


def with_time_limit(seconds: float, check: Callable[[], str]) -> str:
    """Return what a check returns; if it takes longer than some seconds, that.

    In a thread, because neither the name server nor a server that sends a byte at a time obeys time limits.
    """
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(check()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else f"no answer after {seconds:.0f} s; check the host and the port"


def _mail_success(thorough: bool, is_encrypted: bool) -> str:
    if not thorough:
        return "answers"
    return "answers, and accepts the sender" + ("; its certificate is valid" if is_encrypted else "")


def _mail_connection_error(config) -> str:
    """Return why the mail server cannot be connected to, with what to do; empty when it can."""
    error = _connection_error(config["MAIL_SERVER"], config["MAIL_PORT"])
    return error and f"{error}; check MAIL_SERVER and MAIL_PORT"


def _mail_server_error(config) -> str:
    """Return why the mail server would not take an e-mail, with what to do; empty when it would."""
    step = ""
    try:
        for step in smtp.delivery_steps(config):  # noqa: B007  the last one is told
            pass
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        return smtp.describe_error(error, config, step)
    return ""


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def check_elasticsearch(*, thorough: bool = False) -> CheckResult:
    """Check that Elasticsearch answers, and how far its index is behind. Requires that the database answers.

    thorough: whether to check the index itself as well.
    """
    indexer = current_app.extensions["indexer"]
    kinds = [model.__tablename__ for model in search.models()]
    if indexer is None:
        if any(map(outbox.is_registered, kinds)):
            message = "is no longer set, but changes are still recorded for it: see docs/search.md"
            return CheckResult(False, message, is_warning=True)
        return CheckResult(None, "is not set: the database searches")
    backlogs = [outbox.backlog(kind) for kind in kinds]
    db.session.commit()
    if problem := _elasticsearch_problem(indexer, thorough):
        return CheckResult(False, problem, is_warning=True)
    count, oldest = sum(count for count, _seconds in backlogs), max(seconds for _count, seconds in backlogs)
    return CheckResult(True, f"answers; {count} changes wait, the oldest for {oldest:.0f} s")


def _elasticsearch_problem(indexer, thorough: bool) -> str:
    """Return why Elasticsearch cannot be used, with what to do; empty when it can."""
    from noxchat.search.elasticsearch_engine import describe_error
    from noxchat.search.indexer import IndexUnusable

    fallback = f"at {indexer.engine.host}: the database searches meanwhile;"
    try:
        indexer.engine.with_deadline(indexer.engine.client.cluster.health)
        for model in search.models() if thorough else ():
            indexer.verify(model)
    except IndexUnusable as reason:
        return f"{fallback} {reason}; a running server builds it"
    except Locked as reason:
        return f"{fallback} {reason}"
    except Exception as error:  # noqa: BLE001  nothing else may depend on Elasticsearch
        db.session.rollback()
        return f"{describe_error(error)} {fallback} check ELASTICSEARCH_URL"
    return ""


def check_limits_store() -> CheckResult:
    """Check that rate limits are counted where all processes see them."""
    config = current_app.config
    if config["RATELIMIT_STORAGE_URI"].startswith("memory"):
        if config["WORKERS"] > 1:
            message = "each process counts by itself: set RATELIMIT_STORAGE_URI=redis://… beside WORKERS"
            return CheckResult(False, message)
        return CheckResult(True, "counted in this process; logins and renames in the database")
    if problem := current_app.extensions["limiter"].check():
        message = f"the store fails ({problem}), each process counts by itself meanwhile: check RATELIMIT_STORAGE_URI"
        return CheckResult(False, message)
    return CheckResult(True, "the store answers")


def check_email_queue() -> CheckResult:
    """Check that e-mails are being sent."""
    count, oldest_seconds = queue.backlog()
    if oldest_seconds > MAX_EMAIL_DELAY_SECONDS:
        minutes = f"{oldest_seconds // 60:.0f} minutes"
        return CheckResult(False, f"{count} e-mails wait, the oldest for {minutes}: is the mail server up?")
    return CheckResult(True, f"{count} e-mails wait")
