"""What is configured, what answers, and what is wrong, in words. `/readyz` and `flask doctor` ask it."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from noxchat.extensions import db

SECONDS = 2


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    words: a sentence, with what to do when `ok` is False. ok: None where there is nothing to judge. is_mild: whether
    everything works all the same, so that nobody needs to be woken.
    """

    ok: bool | None
    words: str
    is_mild: bool = False


def database() -> Finding:
    """Look whether the database answers and has the tables of this version."""
    try:
        current = set(MigrationContext.configure(db.session.connection()).get_current_heads())
        db.session.commit()  # an open snapshot would not see the tables that a migration is about to make
    except SQLAlchemyError as error:
        db.session.rollback()
        return Finding(False, f"does not answer ({type(error).__name__}): is it running, is the address right?")
    newest = set(ScriptDirectory(str(Path(current_app.root_path).parent / "migrations")).get_heads())
    if current != newest:
        return Finding(False, "has the tables of another version: run flask --app main db upgrade")
    return Finding(True, f"{db.engine.dialect.name}, answers, tables are current")


def collation() -> Finding:
    """Look whether PostgreSQL can tell letters of other alphabets from signs, which search needs."""
    if db.engine.dialect.name != "postgresql":
        return Finding(None, "not needed with SQLite")
    encoding, ctype = db.session.execute(
        text("SELECT pg_encoding_to_char(encoding), datctype FROM pg_database WHERE datname = current_database()")
    ).one()
    if encoding != "UTF8" or ctype in {"C", "POSIX"}:
        return Finding(
            False, f"encoding {encoding}, locale {ctype}: make the database with ENCODING 'UTF8' and LOCALE 'C.UTF-8'"
        )
    return Finding(True, f"encoding {encoding}, locale {ctype}")


def _reaches(host: str, port: int) -> str:
    """Return how a connection to a server went: empty when it stands."""
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            return ""
    except OSError as error:
        return f"{error.strerror or 'no answer'} after {time.monotonic() - began:.1f} s"


def search() -> Finding:
    """Look which engine searches, and whether it has its index."""
    from noxchat.search import ENGINES, choose

    best, plain = ENGINES[db.engine.dialect.name]
    if choose(current_app) is best:
        return Finding(True, best.name)
    first = "have the database's owner run CREATE EXTENSION pg_trgm, then " * (db.engine.dialect.name == "postgresql")
    words = f"{plain.name}, which is slow with many people: {first}run flask --app main search reindex"
    return Finding(False, words)


def mail_server(config) -> Finding:
    """Look whether the mail server takes connections."""
    if not config["MAIL_SERVER"]:
        return Finding(None, f"no server is set: letters are left as files in {config['MAIL_DIR'].name}/")
    if trouble := _reaches(config["MAIL_SERVER"], config["MAIL_PORT"]):
        return Finding(False, f"{trouble}: letters wait in the outbox; check MAIL_SERVER and MAIL_PORT")
    return Finding(True, "answers")


def elasticsearch(*, thorough: bool = False) -> Finding:
    """Look whether Elasticsearch answers, and how far it is behind. The database must be known to answer.

    thorough: whether to look at the index itself as well.
    """
    from noxchat.search import models, outbox

    indexer = current_app.extensions["indexer"]
    kinds = [model.__tablename__ for model in models()]
    if indexer is None:
        if any(map(outbox.is_registered, kinds)):
            return Finding(
                False,
                "is not set any more, and what changes is still written down for it: see docs/search.md",
                is_mild=True,
            )
        return Finding(None, "is not set: the database searches")
    from noxchat.search.elastic import what_happened
    from noxchat.search.indexer import Foreign, Missing

    meanwhile = f"at {indexer.elastic.host}: the database searches meanwhile;"
    waits = [outbox.waiting(kind) for kind in kinds]
    db.session.commit()
    count, refused = sum(each.count for each in waits), sum(each.refused for each in waits)
    oldest = max(each.oldest for each in waits)
    try:
        indexer.elastic.promptly(indexer.elastic.client.cluster.health)
        for model in models() if thorough else ():
            indexer.examine(model)
    except Missing as why:
        return Finding(False, f"{meanwhile} its index: {why}; a running server builds it", is_mild=True)
    except Foreign:
        return Finding(False, f"{meanwhile} its index belongs to another place: set ELASTICSEARCH_PREFIX", is_mild=True)
    except Exception as error:  # noqa: BLE001  of which nothing else may depend on this
        return Finding(False, f"{what_happened(error)} {meanwhile} check ELASTICSEARCH_URL", is_mild=True)
    words = f"answers; {count} changes wait, the oldest for {oldest:.0f} s"
    if refused:
        return Finding(False, f"{words}; {refused} rows were refused: run flask --app main search status", is_mild=True)
    return Finding(True, words)


def limits_store() -> Finding:
    """Look whether the counters of tries are kept where all processes see them."""
    config = current_app.config
    if config["RATELIMIT_STORAGE_URI"].startswith("memory"):
        if config["WORKERS"] > 1:
            return Finding(False, "each process counts by itself: set RATELIMIT_STORAGE_URI=redis://… beside WORKERS")
        return Finding(True, "counted in this process")
    if limits_store_answers(config["RATELIMIT_STORAGE_URI"]):
        return Finding(True, "answers")
    return Finding(False, "does not answer: check RATELIMIT_STORAGE_URI")


def limits_store_answers(uri: str) -> bool:
    """Tell whether a store for the limits takes connections; at its usual port where the address names none."""
    url = urlsplit(uri)
    return not _reaches(url.hostname, url.port or (11211 if url.scheme == "memcached" else 6379))


def outbox() -> Finding:
    """Look whether letters pile up."""
    from noxchat import mailer

    count, oldest = mailer.waiting()
    if oldest > 600:
        minutes = oldest // 60
        return Finding(False, f"{count} letters wait, the oldest for {minutes:.0f} minutes: is the mail server up?")
    return Finding(True, f"{count} letters wait")


def folder(path: Path) -> Finding:
    """Look whether a folder can be written."""
    if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
        return Finding(True, f"{path} can be written")
    return Finding(False, f"{path} cannot be written: make it, and give it to the user that runs NoxChat")


def front_end() -> Finding:
    """Look whether the files from npm are there."""
    if Path(current_app.static_folder, "vendor", "htmx.min.js").is_file():
        return Finding(True, "installed")
    return Finding(False, "is not installed, so pages work without JavaScript only: run bin/setup")


def translations() -> Finding:
    """Look whether Russian was compiled."""
    if (Path(current_app.root_path).parent / "translations/ru/LC_MESSAGES/messages.mo").is_file():
        return Finding(True, "compiled")
    return Finding(False, "are not compiled: make translations/ writable and start again")


def secret_key(config) -> Finding:
    """Look whether the key is good enough to serve with."""
    if config["warnings"]:
        return Finding(False, config["warnings"][0])
    return Finding(True, "is long enough")


def base_url(config) -> Finding:
    """Look whether the address in letters is one that other people can open."""
    host = urlsplit(config["BASE_URL"]).hostname
    if host in {"localhost", "127.0.0.1", "::1"}:
        return Finding(None, f"{config['BASE_URL']}: fine here; other people need BASE_URL=https://…")
    if not config["SECURE"]:
        return Finding(False, f"{config['BASE_URL']}: passwords travel readable; put TLS in front and write https://")
    return Finding(True, config["BASE_URL"])
