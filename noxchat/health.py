"""Checks of what is configured and what answers, for `/readyz` and `flask doctor`."""

import os
import smtplib
import socket
import threading
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from noxchat import schema, search
from noxchat.database import Locked, is_read_only
from noxchat.extensions import db
from noxchat.files import GROUP_AND_OTHERS
from noxchat.mail import queue, smtp
from noxchat.search import outbox

TIMEOUT_SECONDS = 2  # of each step
MAIL_SECONDS = 8  # of all steps of a thorough check of the mail server
MAX_EMAIL_DELAY_SECONDS = 600


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    ok: None where there is nothing to check. message: a sentence, with what to do when `ok` is False.
    is_warning: whether everything works all the same.
    """

    ok: bool | None
    message: str
    is_warning: bool = False


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


READ_ONLY = "SELECT current_setting('transaction_read_only')::bool OR NOT has_table_privilege('users', 'INSERT')"


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


def check_search() -> CheckResult:
    """Check that the database's search engine has its index."""
    engine = search.database_engine()
    if all(search.has_trigram_index(model.__tablename__) for model in search.models()):
        return CheckResult(True, engine.name)
    advice = "have the database's owner run CREATE EXTENSION pg_trgm, then run flask --app main search reindex"
    return CheckResult(False, f"{engine.name} has no index, so searches are slow with many people: {advice}")


def check_mail_server(config, *, thorough: bool = False) -> CheckResult:
    """Check that the mail server answers. It sees neither a login nor an e-mail.

    thorough: whether to check as well that the connection is as encrypted as it has to be.
    """
    if not config["MAIL_SERVER"]:
        return CheckResult(None, f"no server is set: e-mails are written to {config['MAIL_DIR'].name}/")
    seconds = MAIL_SECONDS if thorough else TIMEOUT_SECONDS
    errors: list[str] = []
    # In a thread, because neither the name server nor a server that sends a byte at a time obeys the time limits.
    check = _mail_server_error if thorough else _mail_connection_error
    thread = threading.Thread(target=lambda: errors.append(check(config)), daemon=True)
    thread.start()
    thread.join(seconds)
    error = errors[0] if errors else f"no answer after {seconds} s; check MAIL_SERVER and MAIL_PORT"
    if error:
        return CheckResult(False, f"{error}: e-mails wait in the queue")
    is_encrypted = config["MAIL_USE_TLS"] or config["MAIL_USE_SSL"]
    logs_in = config["MAIL_USERNAME"] and config["MAIL_PASSWORD"]
    if logs_in and not is_encrypted and not _is_loopback(config["MAIL_SERVER"]):
        message = "answers, but the password travels unencrypted: set MAIL_USE_TLS or MAIL_USE_SSL"
        return CheckResult(False, message, is_warning=True)
    return CheckResult(True, "answers, and its certificate is valid" if is_encrypted and thorough else "answers")


def _mail_connection_error(config) -> str:
    """Return why the mail server cannot be connected to, with what to do; empty when it can."""
    error = _connection_error(config["MAIL_SERVER"], config["MAIL_PORT"])
    return error and f"{error}; check MAIL_SERVER and MAIL_PORT"


def _mail_server_error(config) -> str:
    """Return why e-mails cannot be handed to the mail server, with what to do; empty when they can."""
    began = time.monotonic()
    try:
        host = smtp.connect(config, TIMEOUT_SECONDS)
        smtp.quit_quietly(host)
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        if problem := smtp.describe_tls_error(error):
            return problem
        if isinstance(error, smtplib.SMTPResponseException):
            reason = f"it refuses with {error.smtp_code}"
        else:
            reason = f"{getattr(error, 'strerror', None) or 'no answer'} after {time.monotonic() - began:.1f} s"
        advice = "check MAIL_SERVER and MAIL_PORT"
        if isinstance(error, smtplib.SMTPServerDisconnected) and not config["MAIL_USE_SSL"]:
            advice += ", and set MAIL_USE_SSL if that port expects TLS from the start"
        return f"{reason}; {advice}"
    return ""


def _is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    try:
        return ip_address(host).is_loopback
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


def check_folder(path: Path, *, is_private: bool = False) -> CheckResult:
    """Check that a folder is writable. is_private: whether to warn if other users can enter it."""
    if not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
        return CheckResult(False, f"{path} cannot be written: create it, and give it to the user that runs NoxChat")
    found = path.stat()
    if is_private and found.st_mode & GROUP_AND_OTHERS:
        owner = "" if found.st_uid == os.geteuid() else "give it to the user that runs NoxChat, then "
        message = f"{path} can be written, but other users can enter it: {owner}chmod 700 {path}"
        return CheckResult(False, message, is_warning=True)
    return CheckResult(True, f"{path} can be written")


def check_front_end() -> CheckResult:
    """Check that the files from npm are installed."""
    if Path(current_app.static_folder or "", "vendor", "htmx.min.js").is_file():
        return CheckResult(True, "installed")
    return CheckResult(False, "not installed, so pages work as without JavaScript: run bin/setup")


def check_password_list(config) -> CheckResult:
    """Check that the list of common passwords is installed."""
    path = config["PASSWORD_LIST"]
    if path.is_file() and path.stat().st_size:
        return CheckResult(True, "installed")
    return CheckResult(False, "not installed, so many common passwords are accepted: run bin/setup")


def check_translations() -> CheckResult:
    """Check that the Russian translation was compiled."""
    if (Path(current_app.root_path).parent / "translations/ru/LC_MESSAGES/messages.mo").is_file():
        return CheckResult(True, "compiled")
    return CheckResult(False, "not compiled: make translations/ writable and start again")


def check_secret_key(config) -> CheckResult:
    """Check that the secret key is strong enough."""
    if config["warnings"]:
        return CheckResult(False, config["warnings"][0])
    return CheckResult(True, "is long enough")


def check_base_url(config) -> CheckResult:
    """Check that other people can open the URL that e-mails contain, and over TLS."""
    host = urlsplit(config["BASE_URL"]).hostname
    if host in {"localhost", "127.0.0.1", "::1"}:
        return CheckResult(None, f"{config['BASE_URL']}: fine here; other people need BASE_URL=https://…")
    if not config["SECURE"]:
        message = "passwords travel unencrypted; put TLS in front and write https://"
        return CheckResult(False, f"{config['BASE_URL']}: {message}")
    return CheckResult(True, config["BASE_URL"])


def check_registration(config) -> CheckResult:
    """Say who may create an account."""
    texts = {
        "open": "open: whoever finds this place can join",
        "invitation": "invitation: who has a link of `flask invite` or of somebody who is here can join",
        "closed": "closed: nobody can join",
    }
    return CheckResult(True, texts[config["REGISTRATION"]])
