"""Opening long conversations, and lists of many: `bin/bench chat`."""

import shutil
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from config import Config
from noxchat import create_app
from noxchat.database import without_statement_timeout
from noxchat.extensions import db
from tests.architecture.test_routes import recorded
from tests.bench.databases import say
from tests.conftest import Browser, Postgres, make_person, migrated, settings

KINDS = ("sqlite", "postgresql")
LONG, SHORT, CONVERSATIONS = 1_000_000, 100, 5_000
# Goals: of CHAT.md, 6, or of the issue that asked for them.
MAX_RATIO, MAX_STATEMENTS, MAX_LIST_MILLISECONDS = 1.2, 6, 40

NUMBERS = {
    "postgresql": "SELECT n FROM generate_series(1, :count) AS n",
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < :count) SELECT n FROM t",
}
TIME = {
    "postgresql": "now() - (:count - n) * interval '1 second'",
    "sqlite": "datetime('now', (n - :count) || ' seconds')",
}


@contextmanager
def database(kind: str):
    """Yield a folder and the URI of a new database with tables, as durable as in production."""
    folder = Path(tempfile.mkdtemp(prefix="nox-chat-"))
    folder.chmod(0o755)
    postgres = Postgres(folder / "pg", durable=True) if kind == "postgresql" else None
    try:
        if postgres:
            postgres.execute("CREATE DATABASE bench")
        uri = postgres.uri("bench") if postgres else f"sqlite:///{folder}/bench.db"
        migrated(folder, uri)
        yield folder, uri
    finally:
        if postgres:
            postgres.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def fill(kind: str, uri: str, folder: Path):
    """Add a conversation of SHORT and one of LONG messages, both read up to 20 before the end, and CONVERSATIONS groups."""
    app = create_app(Config(settings(folder, uri), debug=False))
    app.logger.handlers.clear()
    people = [make_person(app, f"Person {n:x}", f"p{n}@nox.example", public_id=f"person-{n}") for n in range(4)]
    ids = [person.id for person in people]
    numbers, moment = NUMBERS[kind], TIME[kind]
    with app.app_context(), db.engine.begin() as connection, without_statement_timeout(connection):

        def run(statement, **values):
            connection.execute(text(statement), values)

        for conversation_id, (other, count) in enumerate(((ids[1], SHORT), (ids[2], LONG)), 1):
            run(
                "INSERT INTO friends (user_id, friend_id, since, search_text) SELECT a.id, b.id, a.created_at, b.search_text"
                " FROM users a, users b WHERE (a.id = :one AND b.id = :two) OR (a.id = :two AND b.id = :one)",
                one=ids[0],
                two=other,
            )
            run(
                "INSERT INTO conversations (kind, low_id, high_id, title, search_text, version, last_message_id, last_at,"
                " changed_at) VALUES ('direct', :one, :two, '', '', :count, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
                one=ids[0],
                two=other,
                count=count,
            )
            run(
                "INSERT INTO messages (conversation_id, version, kind, author_id, client_id, body, created_at)"
                f" SELECT :chat, n, 'text', CASE WHEN n % 2 = 0 THEN :one ELSE :two END, 'c' || n,"
                f" 'message number ' || n || ' with some words', {moment} FROM ({numbers}) AS t ORDER BY n",
                chat=conversation_id,
                one=ids[0],
                two=other,
                count=count,
            )
            run(
                "INSERT INTO members (user_id, conversation_id, joined_after, read_up_to, shown_up_to, draft,"
                " draft_revision) SELECT id, :chat, 0, (SELECT max(id) - 20 FROM messages), 0, '', 0 FROM users"
                " WHERE id IN (:one, :two)",
                chat=conversation_id,
                one=ids[0],
                two=other,
            )
        run(
            "INSERT INTO conversations (kind, title, search_text, owner_id, version, last_message_id, last_at, changed_at)"
            f" SELECT 'group', 'Group ' || n, 'group ' || n, :owner, 20, 0, {moment}, {moment} FROM ({numbers}) AS t",
            owner=ids[3],
            count=CONVERSATIONS,
        )
        run(
            "INSERT INTO messages (conversation_id, version, kind, author_id, client_id, body, created_at)"
            f" SELECT c.id, t.n, 'text', CASE WHEN t.n % 2 = 0 THEN :one ELSE :two END, 'c' || t.n, 'words',"
            f" CURRENT_TIMESTAMP FROM conversations c, ({numbers}) AS t WHERE c.kind = 'group'",
            one=ids[3],
            two=ids[1],
            count=20,
        )
        run(
            "UPDATE conversations SET last_message_id ="
            " (SELECT max(id) FROM messages WHERE conversation_id = conversations.id)"
        )
        # Every third conversation has something unread.
        run(
            "INSERT INTO members (user_id, conversation_id, joined_after, read_up_to, shown_up_to, draft, draft_revision)"
            " SELECT u.id, c.id, 0, c.last_message_id - CASE WHEN c.id % 3 = 0 THEN 10 ELSE 0 END, 0, '', 0"
            " FROM conversations c JOIN users u ON u.id IN (:one, :two) WHERE c.kind = 'group'",
            one=ids[3],
            two=ids[1],
        )
    with app.app_context(), db.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return app, people


def median_milliseconds(browser, path: str, times: int = 40) -> float:
    """Return the median time of a page: one thread, so about its CPU time with that of the database."""
    seconds = []
    for _time in range(times):
        began = time.perf_counter()
        assert browser.get(path).status_code == 200
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[times // 4 :]) * 1000


def measure_pages(kind: str) -> bool:
    """Open a long and a short conversation, and a list of many. Returns whether the goals were reached."""
    with database(kind) as (folder, uri):
        app, people = fill(kind, uri, folder)
        reader, busy = Browser(app, people[0]), Browser(app, people[3])
        for browser in (reader, busy):
            browser.get("/")
        short, long = (median_milliseconds(reader, f"/chats/{conversation_id}") for conversation_id in (1, 2))
        chats, elsewhere = median_milliseconds(busy, "/chats"), median_milliseconds(busy, "/friends")
        with recorded(app) as (statements, _ends):
            reader.get("/chats/2")
        passed = long / short <= MAX_RATIO and len(statements) <= MAX_STATEMENTS and chats <= MAX_LIST_MILLISECONDS
        say(
            f"{kind}: opening {SHORT} messages {short:.1f} ms, {LONG:,} {long:.1f} ms ({long / short - 1:+.0%}), "
            f"{len(statements)} statements; list of {CONVERSATIONS:,} conversations {chats:.1f} ms, "
            f"another page of the same person {elsewhere:.1f} ms: {'passed' if passed else 'FAILED'}"
        )
        with app.app_context():
            db.engine.dispose()
        return passed


def main(*_numbers: int) -> bool:
    """Measure pages on both databases. Returns whether all goals were reached."""
    results = [measure_pages(kind) for kind in KINDS]
    return all(results)
