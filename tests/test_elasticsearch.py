"""A real Elasticsearch: faults of every kind, the outbox, and recovery of the index."""

import base64
import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import delete, select, text, update

from config import ROOT
from noxchat import accounts, friendships, profiles, relationships, search
from noxchat.database import Locked, begin_write, now
from noxchat.extensions import db
from noxchat.models import User
from noxchat.search import Query, make_search_text, outbox
from noxchat.search.elasticsearch_engine import (
    ELASTICSEARCH_ERRORS,
    INDEX_VERSION,
    MAPPINGS,
    ElasticsearchEngine,
    make_document,
)
from noxchat.search.indexer import Indexer, IndexUnusable, lock
from tests.conftest import (
    Browser,
    act,
    index_everything,
    index_prefix,
    make_person,
    run_in_threads,
    settings,
    wait_until,
)
from tests.elasticsearch.faults import ANSWERS, FAULTS, PASS, FaultProxy, answer

SECONDS = 2.0  # for each answer, and until a change is searchable
NAMES = ["Nika", "Nikanor", "Anika", "Monika Nil", "Alice", "Алёна", "O'Neil"]
NIKA_HITS = ["Nika", "Nikanor", "Anika", "Monika Nil"]  # for the term "nika", in order


@pytest.fixture(autouse=True)
def short_outages(monkeypatch):
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.OPEN_SECONDS", 0.2)


def make_elasticsearch_app(make_app, url, kind="sqlite", **extra):
    """Create an application with its own index, a viewer, and NAMES. Its indexer runs only when told to."""
    # Patient, since other tests use the same server.
    patient = {"ELASTICSEARCH_PREFIX": index_prefix(), "ELASTICSEARCH_URL": url, "ELASTICSEARCH_MILLISECONDS": 5000}
    app = make_app(kind, **{**patient, **extra})
    app.indexer = app.extensions["indexer"]
    app.engine = app.indexer.engine
    app.start_indexer, app.indexer.start = app.indexer.start, lambda: None
    app.viewer = make_person(app, "Viewer", public_id="viewer")
    for number, name in enumerate(NAMES):
        make_person(app, name, f"p{number}@nox.example", public_id=f"p-{number}")
    return app


@pytest.fixture
def app(make_app, proxy):
    """An application with a complete index behind a fault proxy, which waits as long as it does by default."""
    app = make_elasticsearch_app(make_app, proxy.url, ELASTICSEARCH_MILLISECONDS=800)
    index_everything(app)
    return app


@pytest.fixture(params=["sqlite", "postgresql"])
def any_app(request, make_app, proxy):
    """A patient one on each database."""
    app = make_elasticsearch_app(make_app, proxy.url, request.param)
    index_everything(app)
    return app


def search_names(app, term="nika"):
    """Search as the page does; return the names found, and the seconds it took."""
    with app.test_request_context():
        began = time.monotonic()
        page = relationships.search_people(app.viewer, Query.parse(term), None)
        db.session.commit()
        return [person.username for person, _state in page.items], time.monotonic() - began


@contextmanager
def writing(app):
    with app.app_context():
        begin_write(db.session)
        yield
        db.session.commit()


def rename(app, before, after):
    with writing(app):
        found = db.session.scalar(profiles.with_profile().where(User.username == before))
        profiles.edit(accounts.lock_account(found), username=after, public_id=found.profile.public_id, bio="")
    return found.id


def change_text(app, name, search_text):
    with writing(app):
        db.session.execute(update(User).where(User.username == name).values(search_text=search_text))


def outbox_versions(app):
    """Return the versions in the outbox by row id."""
    with app.app_context():
        return dict(map(tuple, db.session.execute(select(outbox.search_outbox.c.row_id, outbox.search_outbox.c.id))))


def step(app):
    with app.app_context():
        return app.indexer.step()


def run(app, *arguments):
    """Run a subcommand of `flask search`; return its exit code and output."""
    result = app.test_cli_runner().invoke(args=["search", *arguments])
    return result.exit_code, result.output


def is_consistent(app):
    """Compare the index with the database."""
    result = run(app, "check")
    assert result == (0, "users: 0 differences.\n")
    return True


def own_indexes(app):
    """Return the names of the indexes on the server, in use or not."""
    with app.app_context():
        return set(app.indexer._own_indexes("users"))


def make_verification_due(app):
    app.indexer.verify_at = 0


# Optional, and never waited for.


def test_elasticsearch_is_not_imported_unless_configured(tmp_path, new_database):
    program = (
        "import sys, threading; from config import Config; from noxchat import create_app, search\n"
        "app = create_app(Config(debug=False)); search.start(app)\n"
        "with app.app_context():\n from noxchat.models import User; from noxchat.search import Query\n"
        " print(User.search(Query.parse('a'), None, 1, User.id > 0))\n"
        "print(sorted(name for name in sys.modules if 'elastic' in name), [t.name for t in threading.enumerate()])"
    )
    environment = {**settings(tmp_path, new_database("sqlite")), "PATH": "/usr/bin", "ELASTICSEARCH_URL": ""}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout == "[]\n[] ['MainThread']\n", result.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_outbox_stays_empty_without_elasticsearch(make_app, kind):
    app = make_app(kind)
    make_person(app, "Alice")
    assert outbox_versions(app) == {}


@pytest.mark.parametrize("fault", ["refuse", "hang", "unroutable"])
def test_startup_does_not_wait_for_unreachable_elasticsearch(make_app, proxy, fault):
    proxy.fault = fault
    make_app()  # imports everything that is imported once
    began = time.monotonic()
    # An address reserved by RFC 5737, from which no packet comes back.
    app = make_app(ELASTICSEARCH_URL="http://192.0.2.1:9200" if fault == "unroutable" else proxy.url)
    app.extensions["indexer"].start()
    assert time.monotonic() - began < SECONDS
    app.viewer = make_person(app, "Viewer")
    make_person(app, "Nika")
    assert search_names(app)[0] == ["Nika"]


def test_server_starts_and_is_ready_while_elasticsearch_hangs(serve, proxy):
    proxy.fault = "hang"
    server = serve(ELASTICSEARCH_URL=proxy.url)
    assert server.get("/healthz").status == 200
    began = time.monotonic()
    ready = server.get("/readyz")
    assert ready.status == 200 and "database searches" in ready.text and time.monotonic() - began < SECONDS


# Faults.


@pytest.mark.parametrize("fault", FAULTS)
def test_search_falls_back_to_database_until_elasticsearch_recovers(app, proxy, fault, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.OPEN_SECONDS", 60)
    before = len(proxy.requests)
    assert search_names(app)[0] == NIKA_HITS and len(proxy.requests) == before + 1
    proxy.fault = fault
    found, took = search_names(app)
    assert found == NIKA_HITS and took < SECONDS and not app.engine.is_ready
    during = len(proxy.requests)
    searches = [search_names(app) for _search in range(10)]
    assert all(found == NIKA_HITS for found, _took in searches)
    # Not of each: a busy machine may stop for longer than Elasticsearch would be waited for.
    assert statistics.median(took for _found, took in searches) < 0.5
    assert len(proxy.requests) == during, "no requests while the circuit is open"
    # It recovers by itself, which is logged once.
    proxy.fault, app.engine.open_until = PASS, 0
    app.start_indexer()
    wait_until(lambda: app.engine.is_ready)
    before = len(proxy.requests)
    assert search_names(app)[0] == NIKA_HITS and len(proxy.requests) > before
    logged = [record.message.split(" at ")[0] for record in caplog.records if "searching" in record.message]
    assert logged[-2:] == ["searching in the database: Elasticsearch", "searching with Elasticsearch"]
    assert len(logged) == 2 + (logged[0] == logged[-1])


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_concurrent_searches_are_answered_in_time_during_faults(app, proxy, fault):
    proxy.fault = fault
    results = run_in_threads(app, 20, lambda _number: search_names(app))
    assert all(found == NIKA_HITS and took < SECONDS for found, took in results), results


@pytest.mark.parametrize("fault", ["drip", "endless", "hang", "truncate"])
def test_failed_requests_do_not_leak_connections(app, proxy, fault):
    for _attempt in range(app.config["THREADS"] + 8):
        proxy.fault = fault
        with pytest.raises(Exception):  # noqa: B017, PT011
            app.engine.client.options(request_timeout=0.05).cluster.health()
    proxy.fault = PASS
    assert app.engine.client.cluster.health()["status"]


def test_indexer_does_not_close_circuit_opened_during_its_step(app, monkeypatch):
    monkeypatch.setattr(outbox, "lag", lambda _kind: app.engine.open_circuit(ValueError()))
    assert app.engine.is_ready and not step(app) and app.engine.circuit_open


def test_search_does_not_wait_for_name_resolution(make_app, proxy, monkeypatch):
    """getaddrinfo has no timeout."""
    url = proxy.url.replace("127.0.0.1", "localhost")
    app = make_elasticsearch_app(make_app, url, ELASTICSEARCH_MILLISECONDS=800)
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5) or getaddrinfo(*args, **kwargs))
    app.engine.aliases["users"] = "x"
    app.engine.close_circuit()
    found, took = search_names(app)
    assert found == NIKA_HITS and took < SECONDS and not app.engine.is_ready


@pytest.mark.parametrize("fault", ["refuse", "hang", "json"])
def test_saving_profile_does_not_wait_and_loses_no_change(any_app, proxy, fault):
    app, proxy.fault = any_app, fault
    app.start_indexer()
    browser = Browser(app, app.viewer)
    token, began = browser.token(), time.monotonic()
    fields = {"username": f"Nikolas {fault}", "public_id": "viewer", "bio": ""}
    assert browser.post("/settings/profile", fields, token=token).status_code == 303
    assert time.monotonic() - began < 1 and list(outbox_versions(app)) == [app.viewer.id]
    proxy.fault = PASS
    wait_until(lambda: app.engine.is_ready and not outbox_versions(app), 60)
    assert is_consistent(app)


def test_readyz_and_doctor_report_faults_without_failing(app, proxy):
    def doctor():
        result = app.test_cli_runner().invoke(args=["doctor"])
        assert result.exit_code == 0
        return next(line for line in result.output.splitlines() if "Elasticsearch:" in line)

    assert "ok" in doctor()
    assert "answers" in app.test_client().get("/readyz").json["elasticsearch"]
    for fault in ("refuse", "hang", "endless", "401", "deeply-nested"):
        proxy.fault, began = fault, time.monotonic()
        ready = app.test_client().get("/readyz")
        assert ready.status_code == 200 and "database searches" in ready.json["elasticsearch"]
        assert time.monotonic() - began < SECONDS
        assert doctor().startswith("note") and "database searches" in doctor()


# The outbox.


def test_changes_are_recorded_in_their_own_transaction(any_app):
    app = any_app
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  undone"))
        assert db.session.scalar(select(outbox.search_outbox.c.id))
        db.session.rollback()
    assert outbox_versions(app) == {}
    nika_id = rename(app, "Nika", "Veronika")
    first = outbox_versions(app)
    rename(app, "Veronika", "Veronica")
    second = outbox_versions(app)
    assert list(first) == list(second) == [nika_id] and second[nika_id] > first[nika_id], "one row, a later version"
    with writing(app):
        db.session.execute(update(User).where(User.id == nika_id).values(theme="night"))
        db.session.execute(update(User).where(User.id == nika_id).values(search_text=User.search_text))
    assert outbox_versions(app) == second, "no search text was changed"
    with writing(app):
        db.session.execute(delete(User).where(User.username.in_(["Alice", "Алёна"])))
        db.session.execute(text("UPDATE users SET search_text = '  x' || search_text WHERE username = 'Anika'"))
    assert len(outbox_versions(app)) == 4
    assert make_person(app, "Newcomer", "new@nox.example").id in outbox_versions(app)
    index_everything(app)
    assert outbox_versions(app) == {} and is_consistent(app)


def test_change_made_while_sending_stays_in_outbox(any_app, monkeypatch):
    app, send = any_app, Indexer._send
    nika_id = rename(app, "Nika", "Veronika")

    def send_once(self, name, rows):
        send(self, name, rows)
        rename(app, "Veronika", "Veronica")
        monkeypatch.setattr(outbox, "next_changes", lambda *_args: [])

    monkeypatch.setattr(Indexer, "_send", send_once)
    assert step(app)
    assert list(outbox_versions(app)) == [nika_id]
    monkeypatch.undo()
    index_everything(app)
    assert search_names(app, "veronica")[0] == ["Veronica"] and is_consistent(app)


def test_outdated_write_does_not_override_newer_version_or_deletion(app):
    nika_id = rename(app, "Nika", "Veronika")
    with app.app_context():
        [old] = outbox.next_changes(User, 10)
        name, _known = outbox.last_built("users")
    rename(app, "Veronika", "Veronica")
    index_everything(app)
    app.indexer._send(name, [old])  # a version conflict is not a failure
    with writing(app):
        db.session.execute(delete(User).where(User.id == nika_id))
    index_everything(app)
    app.indexer._send(name, [old, (0, nika_id, "  nika")])
    app.indexer.client.indices.refresh(index=name)
    assert is_consistent(app) and search_names(app, "veron")[0] == []


@pytest.mark.parametrize("writer", ["process without Elasticsearch", "process with Elasticsearch"])
def test_change_is_searchable_within_two_seconds(serve, elasticsearch, writer, make_app, new_database):
    uri = new_database("postgresql")
    extra = {"ELASTICSEARCH_URL": elasticsearch.url, "ELASTICSEARCH_PREFIX": index_prefix()}
    app_without = make_app(uri=uri)
    app = make_elasticsearch_app(make_app, elasticsearch.url, uri=uri, **extra, ELASTICSEARCH_MILLISECONDS=800)
    serve(uri=uri, **extra)
    wait_until(lambda: f"Documents: {len(NAMES) + 1} of" in run(app, "status")[1])
    wait_until(lambda: step(app))
    for number in range(3):
        make_person(app_without if "without" in writer else app, f"Zora {number}", f"z{number}@nox.example")
        began = time.monotonic()
        while f"Zora {number}" not in search_names(app, "zora")[0]:
            assert time.monotonic() - began < SECONDS
            time.sleep(0.02)
        assert app.engine.is_ready


@pytest.mark.parametrize("block", ["index.blocks.write", "index.blocks.read_only"])
def test_changes_stay_pending_while_index_is_read_only(app, block):
    [name] = own_indexes(app)
    app.indexer.client.indices.put_settings(index=name, settings={block: True})
    rename(app, "Nika", "Veronika")
    assert not step(app) and len(outbox_versions(app)) == 1
    assert search_names(app, "veronika")[0] == ["Veronika"], "the database searches"
    app.indexer.client.indices.put_settings(index=name, settings={block: False})
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"]


def test_search_falls_back_while_backlog_is_stale(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.CHANGES_PER_BATCH", 1)
    rename(app, "Nika", "Veronika")
    rename(app, "Alice", "Alicia")
    found, send = [], Indexer._send

    def search_and_send(self, name, rows):
        found.append(search_names(app, "alicia")[0])
        send(self, name, rows)

    monkeypatch.setattr(Indexer, "_send", search_and_send)
    age_outbox(app)
    step(app)
    assert found == [["Alicia"], ["Alicia"]] and outbox_versions(app) == {}


def age_outbox(app):
    """Have the changes in the outbox wait for an hour already."""
    with writing(app):
        db.session.execute(update(outbox.search_outbox).values(created_at=now().replace(year=now().year - 1)))


def test_search_falls_back_while_another_process_is_stuck(any_app):
    app = any_app
    rename(app, "Nika", "Veronika")
    with app.app_context(), lock(User):
        assert app.indexer.step() and app.engine.is_ready
        age_outbox(app)
        assert not app.indexer.step() and not app.engine.is_ready
        assert search_names(app, "veronika")[0] == ["Veronika"]
    index_everything(app)
    assert is_consistent(app)


def test_locked_row_does_not_delay_other_changes(make_app, proxy):
    app = make_elasticsearch_app(make_app, proxy.url, "postgresql")
    index_everything(app)
    rename(app, "Nika", "Veronika")
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(update(User).where(User.username == "Veronika").values(search_text="  held"))
        alice_id, before = rename(app, "Alice", "Alicia"), len(proxy.requests)
        assert step(app) and len(proxy.requests) - before < 6, "no busy loop"
        assert len(outbox_versions(app)) == 1 and alice_id not in outbox_versions(app)
        connection.rollback()
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"] and search_names(app, "alicia")[0] == ["Alicia"]


def test_database_searches_while_a_document_is_refused(app, caplog):
    alice_id = rename(app, "Alice", "Alicia")
    change_text(app, "Alicia", "  " + "x" * 40_000)  # Lucene refuses terms of more than 32,766 bytes
    rename(app, "Nika", "Veronika")
    assert not step(app) and search_names(app, "veronika")[0] == ["Veronika"]
    assert f"row {alice_id} was not indexed: document_parsing_exception" in caplog.text
    code, output = run(app, "reindex")
    assert code == 0, output
    index_everything(app)
    assert search_names(app, "alicia")[0] == ["Alicia"] and is_consistent(app), "reindex recomputes the search text"


def test_temporarily_rejected_document_is_retried(app, proxy, monkeypatch):
    rename(app, "Nika", "Veronika")
    full = b'{"items": [{"index": {"_id": "1", "status": 429, "error": {"type": "es_rejected_execution_exception"}}}]}'
    monkeypatch.setitem(ANSWERS, "full", answer("200 OK", full))
    monkeypatch.setitem(ANSWERS, "409", answer("409 Conflict", b'{"error": {"type": "conflict"}, "status": 409}'))
    for fault in ("full", "409"):
        proxy.fault = fault
        with app.app_context(), lock(User) as connection, pytest.raises(ELASTICSEARCH_ERRORS):
            app.indexer._drain(User, connection)
        assert len(outbox_versions(app)) == 1, fault
    proxy.fault = PASS
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"]


# Writing, rebuilding and recovering the index.


def test_lock_is_exclusive_and_ends_with_its_connection(any_app):
    search.stop(any_app, wait=True)  # the indexer, which may hold it
    with any_app.app_context():
        with lock(User) as connection, pytest.raises(Locked), lock(User):
            pass
        with lock(User):
            pass
        if db.engine.dialect.name == "postgresql":
            with lock(User) as connection:
                process_id = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
                connection.commit()
                db.session.execute(text("SELECT pg_terminate_backend(:id)"), {"id": process_id})
                db.session.commit()
                with lock(User, timeout=5):
                    pass

    def hold(_number):
        with lock(User):
            time.sleep(1)

    results = run_in_threads(any_app, 8, hold)
    assert sum(isinstance(result, Locked) for result in results) == 7, results


def test_indexer_that_lost_its_lock_changes_nothing(make_app, proxy, monkeypatch):
    """It neither deletes changes from the outbox nor puts its own index into use: either could lose changes."""
    app = make_elasticsearch_app(make_app, proxy.url, "postgresql")
    index_everything(app)
    nika_id, send = rename(app, "Nika", "Veronika"), Indexer._send

    def send_and_lose_lock(self, name, rows):
        send(self, name, rows)
        db.session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
        db.session.commit()

    monkeypatch.setattr(Indexer, "_send", send_and_lose_lock)
    assert not step(app) and list(outbox_versions(app)) == [nika_id]
    before = own_indexes(app)
    assert run(app, "reindex")[0] == 1 and own_indexes(app) == before
    monkeypatch.undo()
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"]


def test_index_of_newer_version_is_neither_searched_nor_rebuilt(app, monkeypatch):
    """As during a rolling upgrade."""
    before = own_indexes(app)
    monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION - 1)
    make_verification_due(app)
    assert not step(app) and search_names(app)[0] == NIKA_HITS and own_indexes(app) == before


def test_index_version_changes_with_documents_and_mappings():
    sample = [MAPPINGS, make_document(7, 3, make_search_text("Anna O'Neil", "anna_o"))]
    digest = hashlib.sha256(json.dumps(sample, sort_keys=True).encode()).hexdigest()[:12]
    assert {digest: INDEX_VERSION} == {"862b07cb6d08": 1}, (
        "raise INDEX_VERSION so that older indexes are rebuilt, and update both here"
    )


def test_document_contains_only_search_fields():
    assert make_document(7, 3, make_search_text("Anna O'Neil", "anna_o")) == {
        "id": 7,
        "version": 3,
        "text": "  anna  o'neil\t  anna_o\t  neil  oneil  o",
        "whole": "anna  o'neil\t  anna_o\t  neil  oneil  o",
        "called": ["anna  o'neil", "anna_o"],
        "begins": ["anna", "o'neil", "anna_o", "neil", "oneil", "o"],
        "trigrams": ["ann nna", "o'n 'ne nei eil", "ann nna na_ a_o", "nei eil", "one nei eil"],
    }


def reset_outbox_versions():
    """Have the outbox count its versions from 1 again, as after restoring a backup of the database."""
    sqlite = "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'search_outbox'"
    postgres = "SELECT setval('search_outbox_id_seq', 1, false)"
    db.session.execute(text(sqlite if db.engine.dialect.name == "sqlite" else postgres))
    db.session.execute(update(outbox.search_indexes).values(known=0))


def lose(app, loss, monkeypatch):
    """Do to an index what `loss` says."""
    client, alias = app.indexer.client, app.engine.aliases["users"]
    [name] = own_indexes(app)
    mappings = {**MAPPINGS, "_meta": client.indices.get(index=name)[name]["mappings"]["_meta"]}
    with writing(app):
        row_id = db.session.scalar(select(User.id).where(User.username == "Veronika"))
        if loss == "index deleted":
            client.indices.delete(index=name)
        elif loss == "alias deleted":
            client.indices.delete_alias(index=name, name=alias)
        elif loss == "older index restored":
            client.delete(index=name, id=str(row_id))
            client.index(index=name, id=str(row_id), document=make_document(row_id, 0, "  nika\t"))
        elif loss == "two indexes":
            client.indices.create(index=f"{alias}-2", mappings=mappings, aliases={alias: {}})
        elif loss == "replaced by an empty index":
            client.indices.delete(index=name)
            client.indices.create(index=name, mappings=mappings, aliases={alias: {}, f"{name}-writing": {}})
        elif loss == "older version":
            monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION + 1)
        elif loss == "older database restored":
            reset_outbox_versions()
        elif loss == "older database restored and changed":
            reset_outbox_versions()
            for number in range(5):
                change = update(User).where(User.username == "Alice").values(search_text=f"  alicia {number}")
                db.session.execute(change)
        else:  # a process was killed after it had sent a change, and before the database knew
            app.indexer._send(name, [(10**6, row_id, "  veronika")])


LOSSES = [
    *("index deleted", "older index restored", "alias deleted", "replaced by an empty index", "two indexes"),
    *("older database restored", "older database restored and changed", "older version", "killed while sending"),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_index_recovers_from_loss(any_app, loss, monkeypatch):
    app = any_app
    rename(app, "Nika", "Veronika")
    index_everything(app)
    before = own_indexes(app)
    lose(app, loss, monkeypatch)
    with app.app_context(), pytest.raises(IndexUnusable):
        app.indexer.verify(User)
    make_verification_due(app)
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"] and app.engine.is_ready
    assert len(own_indexes(app)) == 1 and not own_indexes(app) & before


@pytest.mark.parametrize("loss", ["older index restored", "older database restored"])
def test_unusable_index_is_not_searched_while_it_is_rebuilt(app, loss, monkeypatch):
    rename(app, "Nika", "Veronika")
    index_everything(app)
    lose(app, loss, monkeypatch)
    other, found = Indexer(app, ElasticsearchEngine(app)), []
    other.engine.aliases = app.engine.aliases
    other.verified = dict(app.indexer.verified)
    other.engine.close_circuit()

    def search_meanwhile(*_args):
        found.append(app.engine.is_ready or other.step() or other.engine.is_ready)
        found.append(search_names(app, "veronika")[0] != ["Veronika"])
        return iter([])

    make_verification_due(app)
    with monkeypatch.context() as patch:
        patch.setattr("noxchat.search.indexer.LOCK_SECONDS", 0)
        patch.setattr("noxchat.search.indexer.batches", search_meanwhile)
        step(app)
    assert found == [False, False]
    other.engine.close()


def test_database_restored_while_server_runs_loses_no_change(app, tmp_path):
    path = app.config["SQLALCHEMY_DATABASE_URI"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        database.backup(backup)
        rename(app, "Nika", "Veronika")
        index_everything(app)
        backup.backup(database)
    rename(app, "Alice", "Alicia")
    rename(app, "Anika", "Zanika")
    index_everything(app)  # before the next verification is due
    assert is_consistent(app) and search_names(app)[0] == ["Nika", "Nikanor", "Monika Nil", "Zanika"]


def test_index_stays_in_use_during_long_commands(app):
    with app.app_context(), lock(User):
        make_verification_due(app)
        assert app.indexer.step() and app.engine.is_ready
        assert run(app, "status")[0] == 0


def test_indexer_survives_loss_of_all_database_connections(make_app, proxy, monkeypatch):
    app = make_elasticsearch_app(make_app, proxy.url, "postgresql")
    index_everything(app)
    next_changes, lost = outbox.next_changes, threading.Event()

    def lose_connections(*args):
        monkeypatch.setattr(outbox, "next_changes", next_changes)
        with psycopg.connect(app.config["SQLALCHEMY_DATABASE_URI"].replace("+psycopg", ""), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        try:
            return next_changes(*args)
        finally:
            lost.set()  # and the pool of this test has noticed

    monkeypatch.setattr(outbox, "next_changes", lose_connections)
    rename(app, "Nika", "Veronika")
    app.start_indexer()
    assert lost.wait(20)
    wait_until(lambda: outbox_versions(app) == {})
    wait_until(lambda: app.engine.is_ready)
    assert app.indexer.thread.is_alive() and is_consistent(app)


def test_restarted_server_needs_no_new_index(serve, elasticsearch, make_app, new_database):
    """It records what it has sent before it ends."""
    uri, extra = new_database("postgresql"), {"ELASTICSEARCH_PREFIX": index_prefix()}
    app = make_elasticsearch_app(make_app, elasticsearch.url, uri=uri, **extra)
    server = serve(uri=uri, ELASTICSEARCH_URL=elasticsearch.url, **extra)
    wait_until(lambda: "Documents" in run(app, "status")[1])
    before = own_indexes(app)
    for number in range(40):
        change_text(app, "Alice", f"  alicia {number}\t")
        time.sleep(0.02)
        if number == 30:
            server.process.terminate()
    server.stop()
    with app.app_context():
        app.indexer.verify(User)
    assert own_indexes(app) == before


def test_lock_file_may_belong_to_another_user(app):
    """As after a command that root ran: it is only opened to read."""
    path = Path(f"{app.config['SQLALCHEMY_DATABASE_URI'].removeprefix('sqlite:///')}-search-users.lock")
    with app.app_context(), lock(User):
        opened = [
            file for file in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{file}") == str(path)
        ]
        assert [fcntl.fcntl(int(file), fcntl.F_GETFL) & os.O_ACCMODE for file in opened] == [os.O_RDONLY]


def test_missing_index_is_built_by_one_process(any_app, monkeypatch):
    app, builds, build = any_app, [], Indexer._build
    for name in own_indexes(app):
        app.indexer.client.indices.delete(index=name)
    assert search_names(app)[0] == NIKA_HITS and not app.engine.is_ready

    def count_and_build(self, *args, **kwargs):
        builds.append(self)
        time.sleep(0.3)
        build(self, *args, **kwargs)

    monkeypatch.setattr(Indexer, "_build", count_and_build)
    indexers = [Indexer(app, app.engine) for _process in range(5)]
    run_in_threads(app, 5, lambda number: indexers[number].step())
    assert len(builds) == 1 and len(own_indexes(app)) == 1
    index_everything(app)
    assert len(builds) == 1 and app.engine.is_ready and search_names(app)[0] == NIKA_HITS and is_consistent(app)


def test_index_of_earlier_release_is_replaced(app):
    """Its name and alias did not contain the installation."""
    [name] = own_indexes(app)
    meta = app.indexer.client.indices.get(index=name)[name]["mappings"]["_meta"]
    prefix = app.config["ELASTICSEARCH_PREFIX"]
    aliases = {f"{prefix}-users": {}, f"{prefix}-users-20261124-writing": {}}
    app.indexer.client.indices.create(
        index=f"{prefix}-users-20261124", mappings={**MAPPINGS, "_meta": meta}, aliases=aliases
    )
    app.indexer.client.indices.delete(index=name)
    make_verification_due(app)
    index_everything(app)
    [name] = own_indexes(app)
    assert name.startswith(app.engine.aliases["users"]) and is_consistent(app)


def test_installations_do_not_touch_each_other(make_app, proxy):
    prefix = index_prefix()
    one, same, longer = (
        make_elasticsearch_app(make_app, proxy.url, ELASTICSEARCH_PREFIX=each)
        for each in (prefix, prefix, f"{prefix}-users".replace("-", "_"))
    )
    rename(same, "Nika", "Somebody")
    for app in (one, same, longer):
        index_everything(app)
    assert search_names(one)[0] == NIKA_HITS and search_names(same)[0] == NIKA_HITS[1:]
    assert run(same, "forget", "--yes")[0] == run(longer, "reindex")[0] == 0
    assert search_names(one)[0] == NIKA_HITS and one.engine.is_ready and is_consistent(one)


# Pages.


def add_annas(app, count):
    with writing(app):
        annas = [accounts.create(f"Anna {number:03}", f"anna{number}@nox.example", "!") for number in range(count)]
    index_everything(app)
    return annas


def block_all(app, people):
    with writing(app):
        for person in people:
            act(friendships.block, app.viewer, person) if person.id % 2 else act(friendships.block, person, app.viewer)


def search_all(app, before_page=lambda _number: None):
    """Return the names on all pages of a search for anna."""
    names, cursor, number = [], None, 0
    with app.test_request_context():
        while cursor or not number:
            before_page(number)
            page = relationships.search_people(app.viewer, Query.parse("anna"), cursor)
            names += [person.username for person, _state in page.items]
            cursor, number = page.next_cursor, number + 1
    return names


def test_cursor_of_one_engine_continues_in_another(any_app):
    def fail_on_some(page_number):
        any_app.engine.close_circuit()
        if page_number in (1, 3, 4):
            any_app.engine.open_circuit(ValueError())

    add_annas(any_app, 130)
    names = search_all(any_app)
    assert len(names) == 130 and any_app.engine.is_ready and search_all(any_app, fail_on_some) == names


def test_page_is_full_despite_hidden_hits(any_app):
    annas = add_annas(any_app, 100)
    block_all(any_app, annas[:60])
    assert search_all(any_app) == [f"Anna {n:03}" for n in range(60, 100)] and any_app.engine.is_ready


def test_database_completes_page_when_elasticsearch_fails(app, proxy, monkeypatch):
    annas, calls, fetch_hits = add_annas(app, 60), [], app.engine._fetch_hits
    block_all(app, annas[5:35])

    def fail_second_time(*args):
        calls.append(args)
        proxy.fault = "truncate" if len(calls) > 1 else PASS
        return fetch_hits(*args)

    monkeypatch.setattr(app.engine, "_fetch_hits", fail_second_time)
    with app.test_request_context():
        page = relationships.search_people(app.viewer, Query.parse("anna"), None)
    visible = [number for number in range(60) if not 5 <= number < 35]
    assert [person.username for person, _state in page.items] == [f"Anna {number:03}" for number in visible[:20]]
    assert len(calls) == 2 and not app.engine.is_ready


def test_deleted_account_in_outdated_index_is_not_shown(app):
    with writing(app):
        db.session.execute(delete(User).where(User.username == "Nika"))
    assert search_names(app)[0] == NIKA_HITS[1:] and app.engine.is_ready


# `flask search …`.


def test_reindex_keeps_search_available_and_includes_concurrent_changes(any_app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    app, steps, found = any_app, [], []
    before = own_indexes(app)

    def change_and_search(count):
        if len(steps) in (1, 3):
            rename(app, "Nika" if len(steps) == 1 else "Nika 1", f"Nika {len(steps)}")
            make_person(app, f"Late {len(steps)}", f"late{len(steps)}@nox.example")
        steps.append(count)
        found.append("Anika" in search_names(app, "anika")[0] and app.engine.is_ready)

    with app.app_context():
        assert User.reindex(change_and_search) == ""
    assert len(found) > 4 and all(found), "the old index is searched until the new one is complete"
    assert search_names(app, "late")[0] == ["Late 1", "Late 3"] and search_names(app, "nika 3")[0][0] == "Nika 3"
    assert app.engine.is_ready and outbox_versions(app) == {}, "the new index has all changes from the beginning"
    assert len(own_indexes(app)) == 1 and not before & own_indexes(app), "the old index is deleted"
    assert is_consistent(app)


def test_reindex_can_be_interrupted_and_repeated(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    before = own_indexes(app)

    def interrupt(_count):
        raise KeyboardInterrupt

    with app.app_context(), pytest.raises(KeyboardInterrupt):
        app.indexer.rebuild(User, interrupt)
    assert own_indexes(app) == before
    # An unfinished index left by a process that was killed.
    meta = app.indexer.client.indices.get(index=[*before])[[*before][0]]["mappings"]["_meta"]
    app.indexer.client.indices.create(index=f"{app.engine.aliases['users']}-1", mappings={**MAPPINGS, "_meta": meta})
    change_text(app, "Alice", "  somebody")
    code, output = run(app, "reindex")
    assert code == 0 and f"{len(NAMES) + 1} users indexed: Elasticsearch" in output, output
    assert len(own_indexes(app)) == 1 and not before & own_indexes(app)
    index_everything(app)
    assert search_names(app, "alice")[0] == ["Alice"] and search_names(app, "somebody")[0] == [] and is_consistent(app)


def test_check_finds_and_repairs_differences(app):
    index_everything(app)
    [name] = own_indexes(app)
    with app.app_context():
        ids = dict(map(tuple, db.session.execute(select(User.username, User.id))))
    client = app.indexer.client
    client.delete(index=name, id=str(ids["Nika"]))
    client.index(index=name, id=str(ids["Alice"]), document=make_document(ids["Alice"], 0, "  bob\t  p-4\t"))
    client.index(index=name, id="999999", document=make_document(999999, 0, "  ghost\t  ghost\t"))
    client.indices.refresh(index=name)
    code, output = run(app, "check")
    assert code == 1 and output == f"users: 3 differences. {ids['Nika']} {ids['Alice']} 999999\n"
    for _repair in range(2):
        code, output = run(app, "check", "--repair")
        assert code == 0 and "rebuilt" in output and is_consistent(app) and search_names(app)[0] == NIKA_HITS
        [name] = own_indexes(app)
        client.indices.delete(index=name)
        code, output = run(app, "check")
        assert code == 1 and "its index is missing" in output


def test_check_does_not_count_concurrent_changes(any_app):
    with any_app.app_context():
        assert any_app.indexer.check(User, lambda _count: rename(any_app, "Nika", "Veronika")) == ("", set())


def test_status_command(app, proxy):
    count = len(NAMES) + 1
    code, output = run(app, "status")
    assert f"Documents: {count} of {count} rows" in output and "0 users wait" in output and proxy.url in output
    assert code == 0 and re.search(rf"Index: +{app.engine.aliases['users']}-\w+", output)
    rename(app, "Nika", "Veronika")
    assert "1 users wait" in run(app, "status")[1]
    proxy.fault = "refuse"
    for command in ("status", "check", "reindex"):
        code, output = run(app, command)
        assert code == 1 and "Error: Elasticsearch at" in output, (command, output)


def test_search_commands_without_elasticsearch(make_app):
    app = make_app()
    make_person(app, "Alice")
    assert "ELASTICSEARCH_URL is not set" in run(app, "status")[1] and "1 users indexed" in run(app, "reindex")[1]
    for command in ("check", "forget"):
        code, output = run(app, command)
        assert code == 1 and "ELASTICSEARCH_URL is not set" in output


def test_forget_deletes_index_and_stops_recording_changes(app, make_app):
    app_without = make_app(uri=app.config["SQLALCHEMY_DATABASE_URI"])
    assert "still recorded" in app_without.test_cli_runner().invoke(args=["doctor"]).output
    assert app.test_cli_runner().invoke(args=["search", "forget"], input="n\n").exit_code == 1
    assert own_indexes(app) and run(app, "forget", "--yes")[0] == 0
    rename(app, "Nika", "Veronika")
    assert outbox_versions(app) == {}
    assert "still recorded" not in app_without.test_cli_runner().invoke(args=["doctor"]).output
    assert own_indexes(app) == set()
    make_verification_due(app)
    index_everything(app)
    assert is_consistent(app), "a server builds it again"


# Credentials and certificates.


@pytest.mark.parametrize("method", ["password", "API key"])
def test_credentials_are_sent_to_server_and_never_logged(make_app, proxy, method, caplog, capfd, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.TIMEOUT_SECONDS", 0.5)
    caplog.set_level(logging.DEBUG)
    secret = "hush/hush s3cret"
    if method == "password":
        extra = {"ELASTICSEARCH_URL": proxy.url.replace("://", "://elastic:hush%2Fhush%20s3cret@")}
        sent = base64.b64encode(f"elastic:{secret}".encode())
    else:
        extra = {"ELASTICSEARCH_URL": proxy.url, "ELASTICSEARCH_API_KEY": secret}
        sent = secret.encode()
    app = make_app(ELASTICSEARCH_PREFIX=index_prefix(), **extra)
    app.viewer, app.indexer, app.engine = make_person(app, "Viewer"), app.extensions["indexer"], None
    for fault in (PASS, "401", "500", "refuse", "hang", "noise", "html"):
        proxy.fault = fault
        step(app)
        app.indexer.engine.close_circuit()
        search_names(app)
        output = "".join(
            app.test_cli_runner().invoke(args=arguments).output
            for arguments in (["doctor"], ["search", "status"], ["search", "reindex"])
        )
        output += app.test_client().get("/readyz").text + caplog.text + "".join(capfd.readouterr())
        output += (app.config["LOG_DIR"] / "noxchat.log").read_text()
        assert not any(word in output for word in ("hush", "s3cret", sent.decode()))
    assert all(sent in request for request in proxy.requests) and proxy.requests


def test_only_configured_certificate_authority_is_trusted(make_app, elasticsearch, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    subprocess.run(
        [*"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split(),
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    proxy = FaultProxy(elasticsearch.port, tls)
    try:
        url = proxy.url.replace("http:", "https:")
        distrusting_app = make_elasticsearch_app(make_app, url)
        assert not step(distrusting_app)
        with pytest.raises(ELASTICSEARCH_ERRORS):
            distrusting_app.engine.client.cluster.health()
        assert proxy.requests == [], "no request is sent to an untrusted server"
        app = make_elasticsearch_app(make_app, url, ELASTICSEARCH_CA=certificate)
        index_everything(app)
        assert search_names(app)[0] == NIKA_HITS and app.engine.is_ready and proxy.requests
    finally:
        proxy.close()
