"""A real Elasticsearch: faults of every kind, the outbox, and recovery of the index."""

import base64
import hashlib
import json
import logging
import re
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import delete, select, text, update

from config import ROOT
from noxchat import accounts, friendships, profiles, relationships
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import User
from noxchat.search import Query, make_search_text, outbox
from noxchat.search.elasticsearch_engine import ELASTICSEARCH_ERRORS, INDEX_VERSION, MAPPINGS, make_document
from noxchat.search.indexer import ForeignIndex, IndexLocked, IndexUnusable
from tests.conftest import (
    Browser,
    Server,
    index_everything,
    index_prefix,
    make_person,
    numbers,
    run_in_threads,
    settings,
    wait_until,
)
from tests.elasticsearch.faults import ANSWERS, FAULTS, PASS, FaultProxy, answer

SECONDS = 2.0  # for each answer, and until a change is searchable
NAMES = ["Nika", "Nikanor", "Anika", "Monika Nil", "Alice", "Алёна", "O'Neil"]
NIKA_HITS = ["Nika", "Nikanor", "Anika", "Monika Nil"]  # for the term "nika", in order


def make_elasticsearch_app(make_app, url, kind="sqlite", **extra):
    """Create an application with its own index, a viewer, and NAMES."""
    extra = {"ELASTICSEARCH_PREFIX": index_prefix(), **extra}
    app = make_app(kind, ELASTICSEARCH_URL=url, **extra)
    app.viewer = make_person(app, "Viewer", public_id="viewer")
    for number, name in enumerate(NAMES):
        make_person(app, name, f"p{number}@nox.example", public_id=f"p-{number}")
    return app


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request, make_app, proxy):
    """An application on each database, with a complete index behind a fault proxy. Its indexer does not run."""
    app = make_elasticsearch_app(make_app, proxy.url, request.param)
    indexer = app.extensions["indexer"]
    app.start, indexer.start = indexer.start, lambda: None
    app.index = f"{app.config['ELASTICSEARCH_PREFIX']}-users"
    index_everything(app)
    return app


@pytest.fixture
def app_with_indexer(app):
    """The same application with its indexer running."""
    app.extensions["indexer"].start = app.start
    app.start()
    return app


def indexer_of(app):
    return app.extensions["indexer"]


def search_names(app, term="nika"):
    """Search as the page does; return the names found, and the seconds it took."""
    with app.test_request_context():
        began = time.monotonic()
        page = relationships.search_people(app.viewer, Query.parse(term), None)
        db.session.commit()
        return [person.username for person, _state in page.items], time.monotonic() - began


def rename(app, before, after):
    with app.app_context():
        begin_write(db.session)
        found = db.session.scalar(profiles.with_profile().where(User.username == before))
        profiles.edit(accounts.lock_account(found), username=after, public_id=found.profile.public_id, bio="")
        db.session.commit()
        return found.id


def backlog(app):
    with app.app_context():
        return outbox.backlog("users")


def make_verification_due(app):
    """Have the next step of the indexer verify the index again."""
    indexer_of(app).verified_at = -1e9


def wait_until_indexed(app):
    """Wait until the outbox is empty, and what was sent is searchable."""
    wait_until(lambda: backlog(app).count == 0)
    indexer_of(app).client.indices.refresh(index=app.index)


def run_check(app, *arguments):
    """Compare the index with the database by the command; return its output."""
    result = app.test_cli_runner().invoke(args=["search", "check", *arguments])
    assert result.exit_code in (0, 1), result.output
    return result.output


def delete_indexes(app):
    """Delete the indexes on the server, as if that had been reinstalled."""
    for name in indexer_of(app).indexes(User):
        indexer_of(app).client.indices.delete(index=name)


def is_consistent(app):
    return "users: 0 differences." in run_check(app)


# Optional, and never waited for.


def test_elasticsearch_is_not_imported_unless_configured(tmp_path, new_database):
    program = (
        "import sys, threading; from config import Config; from noxchat import create_app, search\n"
        "app = create_app(Config(debug=False)); search.start(app)\n"
        "with app.app_context():\n from noxchat.models import User; from noxchat.search import Query\n"
        " from noxchat.search.engines import current_engine; current_engine()\n"
        "print(sorted(name for name in sys.modules if 'elastic' in name), [t.name for t in threading.enumerate()])"
    )
    environment = {**settings(tmp_path, new_database("sqlite")), "PATH": "/usr/bin", "ELASTICSEARCH_URL": ""}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "[] ['MainThread']", result.stderr


def test_outbox_stays_empty_without_elasticsearch(any_app):
    make_person(any_app, "Alice")
    with any_app.app_context():
        assert db.session.execute(select(outbox.search_outbox)).all() == []


@pytest.mark.parametrize("fault", ["refuse", "hang", "unroutable"])
def test_startup_does_not_wait_for_unreachable_elasticsearch(make_app, proxy, fault):
    proxy.fault = fault
    # An address reserved by RFC 5737, from which no packet comes back.
    url = "http://192.0.2.1:9200" if fault == "unroutable" else proxy.url
    make_app()  # imports everything that is imported once
    began = time.monotonic()
    app = make_app(ELASTICSEARCH_URL=url)
    app.extensions["indexer"].start()
    took = time.monotonic() - began
    assert took < 1
    viewer = make_person(app, "Viewer")
    make_person(app, "Nika")
    with app.test_request_context():
        assert [
            person.username for person, _state in relationships.search_people(viewer, Query.parse("nika"), None).items
        ] == ["Nika"]


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
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.MIN_OPEN_SECONDS", 0.1)
    assert search_names(app)[0] == NIKA_HITS and app.extensions["elasticsearch"].is_ready
    requests_before = proxy.request_count
    proxy.fault = fault
    found, took = search_names(app)
    assert found == NIKA_HITS and took < SECONDS
    assert not app.extensions["elasticsearch"].is_ready
    request_count = proxy.request_count
    searches = [search_names(app) for _search in range(20)]
    assert all(found == NIKA_HITS and took < SECONDS for found, took in searches)
    # Not of each: a busy machine may stop for longer than Elasticsearch would be waited for.
    assert statistics.median(took for _found, took in searches) < 0.5
    assert proxy.request_count == request_count, "no requests while the circuit is open"
    warnings = [record.message for record in caplog.records if "searching in the database" in record.message]
    assert len(warnings) == 1 and request_count - requests_before <= 1
    # It recovers by itself, which is logged once.
    proxy.fault = PASS
    app.extensions["indexer"].start = app.start
    app.start()
    wait_until(lambda: app.extensions["elasticsearch"].is_ready)
    before = proxy.request_count
    assert search_names(app)[0] == NIKA_HITS and proxy.request_count > before
    recoveries = [
        record.message for record in caplog.records if record.message.startswith("searching with Elasticsearch")
    ]
    assert len(recoveries) == 1, recoveries


@pytest.mark.parametrize("fault", ["hang", "slow", "drip", "500"])
def test_concurrent_searches_are_answered_in_time_during_faults(app, proxy, fault):
    proxy.fault = fault
    results = run_in_threads(app, 20, lambda _number: search_names(app))
    assert all(found == NIKA_HITS and took < SECONDS for found, took in results), results


@pytest.mark.parametrize("fault", ["drip", "endless", "hang", "truncate"])
def test_failed_requests_do_not_leak_connections(app, proxy, fault):
    engine = app.extensions["elasticsearch"]
    for _attempt in range(app.config["THREADS"] + 8):
        proxy.fault = fault
        with pytest.raises(Exception):  # noqa: B017, PT011
            engine.client.options(request_timeout=0.05).cluster.health()
    proxy.fault = PASS
    assert engine.client.cluster.health()["status"]


def test_circuit_breaker_backs_off_exponentially(app, monkeypatch):
    engine, clock = app.extensions["elasticsearch"], [1000.0]
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.time.monotonic", lambda: clock[0])
    open_seconds = []
    for _failure in range(7):
        engine.open_circuit("failed")
        engine.open_circuit("a simultaneous search failed")
        assert engine.circuit_open
        open_seconds.append(engine.open_until - clock[0])
        clock[0] = engine.open_until + 0.1
        assert not engine.circuit_open
    assert open_seconds == [1, 2, 4, 8, 15, 15, 15]
    engine.close_circuit()
    clock[0] += 30
    engine.open_circuit("failed again soon")
    assert engine.open_until - clock[0] == 15
    clock[0] += 20
    engine.close_circuit()
    clock[0] += 3600
    engine.open_circuit("failed after an hour")
    assert engine.open_until - clock[0] == 1


def test_indexer_does_not_close_circuit_opened_during_its_step(app, monkeypatch):
    engine = app.extensions["elasticsearch"]
    monkeypatch.setattr(outbox, "lag", lambda _kind: engine.open_circuit("a search failed just now"))
    with app.app_context():
        assert engine.is_ready and not indexer_of(app).step() and not engine.is_ready


def test_search_does_not_wait_for_name_resolution(app, monkeypatch):
    """getaddrinfo has no timeout."""
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5) or getaddrinfo(*args, **kwargs))
    app.extensions["elasticsearch"].client.close()
    app.extensions["elasticsearch"].process_id = None
    found, took = search_names(app)
    assert found == NIKA_HITS and took < SECONDS


@pytest.mark.parametrize("fault", ["refuse", "hang", "endless", "500", "noise", "json"])
def test_saving_profile_does_not_wait_and_loses_no_change(app, proxy, fault):
    proxy.fault = fault
    app.extensions["indexer"].start = app.start
    app.start()
    browser = Browser(app, app.viewer)
    token = browser.token()
    began = time.monotonic()
    fields = {"username": f"Nikolas {fault}", "public_id": "viewer", "bio": ""}
    assert browser.post("/settings/profile", fields, token=token).status_code in (200, 303)
    assert time.monotonic() - began < 1
    assert backlog(app).count >= 1
    proxy.fault = PASS
    wait_until(lambda: app.extensions["elasticsearch"].is_ready, 60)
    wait_until_indexed(app)
    assert is_consistent(app)


def test_readyz_and_doctor_report_faults_without_failing(app, proxy):
    def doctor():
        result = app.test_cli_runner().invoke(args=["doctor"])
        return result.exit_code, next(line for line in result.output.splitlines() if "Elasticsearch:" in line)

    assert "ok" in doctor()[1] and doctor()[0] == 0
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 200 and "answers" in ready.json["elasticsearch"]
    for fault in ("refuse", "hang", "drip", "endless", "401", "noise", "deeply-nested"):
        proxy.fault = fault
        began = time.monotonic()
        ready = app.test_client().get("/readyz")
        assert ready.status_code == 200 and "database searches" in ready.json["elasticsearch"]
        assert time.monotonic() - began < SECONDS
        exit_code, line = doctor()
        assert exit_code == 0 and line.startswith("note") and "database searches" in line


# The outbox.


def outbox_versions(app):
    with app.app_context():
        rows = db.session.execute(select(outbox.search_outbox.c.row_id, outbox.search_outbox.c.id))
        return dict(map(tuple, rows))


def test_changes_are_recorded_in_their_own_transaction(app):
    assert outbox_versions(app) == {}
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  undone"))
        assert db.session.scalar(select(outbox.search_outbox.c.id))
        db.session.rollback()
    assert outbox_versions(app) == {}
    nika_id = rename(app, "Nika", "Veronika")
    first = outbox_versions(app)
    assert list(first) == [nika_id]
    rename(app, "Veronika", "Veronica")
    second = outbox_versions(app)
    assert list(second) == [nika_id] and second[nika_id] > first[nika_id], "one row each, with an increasing version"
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.id == nika_id).values(theme="night"))
        db.session.execute(update(User).where(User.id == nika_id).values(search_text=User.search_text))
        db.session.commit()
        assert outbox_versions(app) == second, "no search text was changed"
        begin_write(db.session)
        db.session.execute(delete(User).where(User.username.in_(["Alice", "Алёна"])))
        db.session.execute(text("UPDATE users SET search_text = '  x' || search_text WHERE username = 'Anika'"))
        db.session.commit()
    assert len(outbox_versions(app)) == 4
    new = make_person(app, "Newcomer", "new@nox.example")
    assert new.id in outbox_versions(app)
    index_everything(app)
    assert outbox_versions(app) == {} and is_consistent(app)


def test_change_made_while_sending_stays_in_outbox(app):
    nika_id = rename(app, "Nika", "Veronika")
    indexer = indexer_of(app)
    send = indexer._send

    def send_and_rename(targets, rows):
        result = send(targets, rows)
        rename(app, "Veronika", "Veronica")
        return result

    with app.app_context(), indexer.lock(User):
        rows = outbox.next_changes(User, 10)
        result = send_and_rename([app.index], rows)
        assert not result.refused
        assert outbox.complete("users", indexer.holder, [row.id for row in rows], {})
    assert list(outbox_versions(app)) == [nika_id]
    index_everything(app)
    assert search_names(app, "veronica")[0] == ["Veronica"] and is_consistent(app)


def test_outdated_write_does_not_override_newer_version_or_deletion(app):
    nika_id = rename(app, "Nika", "Veronika")
    with app.app_context():
        [old] = outbox.next_changes(User, 10)
    rename(app, "Veronika", "Veronica")
    index_everything(app)
    indexer = indexer_of(app)
    with app.app_context():
        assert not indexer._send([app.index], [old]).refused, "a version conflict is not a failure"
        begin_write(db.session)
        db.session.execute(delete(User).where(User.id == nika_id))
        db.session.commit()
    index_everything(app)
    with app.app_context():
        assert not indexer._send([app.index], [old]).refused
        indexer._send([app.index], [(0, nika_id, "  nika")])
    indexer.client.indices.refresh(index=app.index)
    assert is_consistent(app) and "Veronika" not in search_names(app)[0]


@pytest.mark.parametrize("writer", ["process without Elasticsearch", "process with Elasticsearch"])
def test_change_is_searchable_within_two_seconds(serve, elasticsearch, tmp_path, writer, make_app, new_database):
    uri = new_database("postgresql")
    extra = {"ELASTICSEARCH_URL": elasticsearch.url, "ELASTICSEARCH_PREFIX": index_prefix()}
    app_without = make_app(uri=uri)
    viewer = make_person(app_without, "Viewer")
    server = serve(uri=uri, **extra)
    app = make_app(uri=uri, **extra)
    app.viewer = viewer
    wait_until(lambda: app.test_cli_runner().invoke(args=["search", "status"]).output.count("Documents: 1 of 1"))
    app.extensions["indexer"].start = lambda: None
    with app.app_context():
        wait_until(app.extensions["indexer"].step)
    for number in range(5):
        writing_app = app_without if writer == "process without Elasticsearch" else app
        make_person(writing_app, f"Zora {number}", f"z{number}@nox.example")
        began = time.monotonic()
        while f"Zora {number}" not in search_names(app, "zora")[0]:
            assert time.monotonic() - began < SECONDS
            time.sleep(0.02)
        assert app.extensions["elasticsearch"].is_ready
    server.stop()


@pytest.mark.parametrize("block", ["index.blocks.write", "index.blocks.read_only"])
def test_changes_stay_pending_while_index_is_read_only(app, block):
    [name] = indexer_of(app).indexes(User)
    indexer_of(app).client.indices.put_settings(index=name, settings={block: True})
    rename(app, "Nika", "Veronika")
    with app.app_context():
        assert not indexer_of(app).step()
    assert backlog(app).count == 1 and backlog(app).refused == 0
    assert search_names(app, "veronika")[0] == ["Veronika"], "the database searches"
    indexer_of(app).client.indices.put_settings(index=name, settings={block: False})
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"]


def test_search_falls_back_while_backlog_is_stale(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.CHANGES_PER_BATCH", 1)
    rename(app, "Nika", "Veronika")
    rename(app, "Alice", "Alicia")
    found, send = [], indexer_of(app)._send

    def search_and_send(targets, rows):
        found.append(search_names(app, "alicia")[0])
        return send(targets, rows)

    monkeypatch.setattr(indexer_of(app), "_send", search_and_send)
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(outbox.search_outbox).values(created_at=now() - 2 * outbox.LEASE))
        db.session.commit()
        indexer_of(app).step()
    assert found == [["Alicia"], ["Alicia"]] and backlog(app).count == 0


def test_locked_row_does_not_delay_other_changes(make_app, proxy):
    app = make_elasticsearch_app(make_app, proxy.url, "postgresql")
    app.extensions["indexer"].start = lambda: None
    index_everything(app)
    rename(app, "Nika", "Veronika")
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(update(User).where(User.username == "Veronika").values(search_text="  held"))
        rename(app, "Alice", "Alicia")
        began, before = time.monotonic(), proxy.request_count
        assert indexer_of(app).step()
        assert time.monotonic() - began < 1 and proxy.request_count - before < 6, "no busy loop"
        assert backlog(app).count == 1
        connection.rollback()
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"] and search_names(app, "alicia")[0] == ["Alicia"]


def test_refused_document_is_set_aside_and_reported(app, caplog):
    with app.app_context():
        begin_write(db.session)
        # Lucene refuses terms of more than 32,766 bytes.
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  " + "x" * 40_000))
        db.session.commit()
    rename(app, "Nika", "Veronika")
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"]
    assert backlog(app).count == 0 and backlog(app).refused == 1
    assert "was refused" in caplog.text
    result = app.test_cli_runner().invoke(args=["doctor"])
    assert "1 rows were refused" in result.output and result.exit_code == 0
    assert "document_parsing_exception" in app.test_cli_runner().invoke(args=["search", "status"]).output
    assert app.test_cli_runner().invoke(args=["search", "reindex"]).exit_code == 0
    assert search_names(app, "alice")[0] == ["Alice"], "reindex recomputes the search text"
    index_everything(app)
    assert backlog(app).refused == 0 and is_consistent(app)


def test_index_is_built_despite_refused_row(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  " + "x" * 40_000))
        db.session.commit()
        with indexer_of(app).lock(User):
            indexer_of(app).build(User)
    index_everything(app)
    assert backlog(app).refused == 1 and search_names(app)[0] == NIKA_HITS and app.extensions["elasticsearch"].is_ready
    rename(app, "Alice", "Alicia")
    index_everything(app)
    assert backlog(app).refused == 0 and search_names(app, "alicia")[0] == ["Alicia"] and is_consistent(app)


def test_temporarily_rejected_document_is_retried(app, proxy, monkeypatch):
    rename(app, "Nika", "Veronika")
    full = b'{"items": [{"index": {"status": 429, "error": {"type": "es_rejected_execution_exception"}}}]}'
    monkeypatch.setitem(ANSWERS, "full", answer("200 OK", full))
    proxy.fault = "full"
    with app.app_context():
        assert not indexer_of(app).step() and not app.extensions["elasticsearch"].is_ready
    assert backlog(app).count == 1 and backlog(app).refused == 0
    proxy.fault = PASS
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"]


# Writing, rebuilding and recovering the index.


def test_lease_is_exclusive_and_taken_over_after_expiry(app):
    with app.app_context():
        assert outbox.acquire_lease("users", "one") is False and outbox.acquire_lease("users", "one") is False
        assert outbox.acquire_lease("users", "other") is None
        with pytest.raises(IndexLocked), indexer_of(app).lock(User):
            pass
        outbox.release_lease("users", "other")
        assert outbox.acquire_lease("users", "other") is None, "only its holder can release a lease"
        begin_write(db.session)
        db.session.execute(update(outbox.search_indexes).values(held_until=now() - outbox.LEASE))
        db.session.commit()
        assert outbox.acquire_lease("users", "other") is True and outbox.acquire_lease("users", "one") is None
        outbox.release_lease("users", "other")
    results = run_in_threads(app, 8, lambda number: outbox.acquire_lease("users", f"holder {number}"))
    assert results.count(False) == 1 and results.count(None) == 7, results


def test_indexer_that_lost_its_lease_changes_nothing(app):
    """It neither deletes changes from the outbox nor puts its own index into use: either could lose changes."""
    nika_id = rename(app, "Nika", "Veronika")
    indexer, other = indexer_of(app), type(indexer_of(app))(app, app.extensions["elasticsearch"])

    def expire_lease():
        begin_write(db.session)
        db.session.execute(update(outbox.search_indexes).values(held_until=now() - outbox.LEASE))
        db.session.commit()

    send = indexer._send

    def send_and_lose_lease(targets, rows):
        result = send(targets, rows)
        expire_lease()
        assert outbox.acquire_lease("users", "other") is True
        return result

    indexer._send = send_and_lose_lease
    with app.app_context():
        with pytest.raises(IndexLocked), indexer.lock(User):
            indexer.drain(User)
        assert list(outbox_versions(app)) == [nika_id]
        indexer._send = send
        outbox.release_lease("users", "other")

    def take_over(_count):
        expire_lease()
        with other.lock(User):
            other.drain(User)

    before = set(indexer.indexes(User))
    with app.app_context(), pytest.raises((IndexLocked, *ELASTICSEARCH_ERRORS)), indexer.lock(User):
        indexer.build(User, take_over)
    assert set(indexer.indexes(User)) == before
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"]


def test_index_of_newer_version_is_neither_searched_nor_rebuilt(app, monkeypatch):
    """As during a rolling upgrade."""
    before = set(indexer_of(app).indexes(User))
    monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION - 1)
    make_verification_due(app)
    with app.app_context():
        assert not indexer_of(app).step()
    assert search_names(app)[0] == NIKA_HITS and set(indexer_of(app).indexes(User)) == before


def test_missing_index_is_built_by_one_process(app, elasticsearch, monkeypatch):
    builds = []
    delete_indexes(app)
    assert search_names(app)[0] == NIKA_HITS and not app.extensions["elasticsearch"].is_ready
    indexer = indexer_of(app)
    build = type(indexer).build

    def count_and_build(self, *args, **kwargs):
        builds.append(self)
        time.sleep(0.3)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(type(indexer), "build", count_and_build)
    indexers = [type(indexer)(app, app.extensions["elasticsearch"]) for _process in range(5)]
    run_in_threads(app, 5, lambda number: indexers[number].step())
    assert len(builds) == 1
    with app.app_context():
        wait_until(indexers[0].step)
    assert app.extensions["elasticsearch"].is_ready and search_names(app)[0] == NIKA_HITS and is_consistent(app)


def test_concurrent_threads_build_one_index(app):
    delete_indexes(app)
    app.extensions["elasticsearch"].is_ready = False
    run_in_threads(app, 6, lambda _number: indexer_of(app).step())
    index_everything(app)
    assert len(indexer_of(app).indexes(User)) == 1 and search_names(app)[0] == NIKA_HITS and is_consistent(app)


def index_versions(app):
    with app.app_context():
        return [index["mappings"]["_meta"]["layout"] for index in indexer_of(app).indexes(User).values()]


def test_index_of_older_version_is_rebuilt(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION + 1)
    with app.app_context(), pytest.raises(IndexUnusable):
        indexer_of(app).verify(User)
    make_verification_due(app)
    assert search_names(app)[0] == NIKA_HITS
    index_everything(app)
    assert index_versions(app) == [INDEX_VERSION + 1] and search_names(app)[0] == NIKA_HITS and is_consistent(app)


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


@pytest.mark.parametrize(
    "loss",
    [
        *("index deleted", "older index restored", "alias deleted", "replaced by an empty index", "two indexes"),
        *("older database restored", "older database restored and changed"),
    ],
)
def test_index_recovers_from_loss(app, loss):
    indexer = indexer_of(app)
    rename(app, "Nika", "Veronika")
    index_everything(app)
    with app.app_context():
        if loss == "index deleted":
            delete_indexes(app)
        elif loss == "alias deleted":
            [name] = indexer.indexes(User)
            indexer.client.indices.delete_alias(index=name, name=app.index)
        elif loss == "older index restored":
            row_id = db.session.scalar(select(User.id).where(User.username == "Veronika"))
            [name] = indexer.indexes(User)
            indexer.client.delete(index=name, id=str(row_id))
            indexer.client.index(index=name, id=str(row_id), document=make_document(row_id, 0, "  nika\t"))
        elif loss == "two indexes":
            meta = {"place": outbox.register("users"), "layout": INDEX_VERSION}
            indexer.client.indices.create(
                index=f"{app.index}-2", mappings={**MAPPINGS, "_meta": meta}, aliases={app.index: {}}
            )
        elif loss == "replaced by an empty index":
            [old] = indexer.indexes(User)
            with indexer.lock(User):
                indexer.build(User)
            [new] = indexer.indexes(User)
            client = indexer.client.indices
            meta = {"place": outbox.register("users"), "layout": INDEX_VERSION}
            aliases = {app.index: {}, f"{old}-writing": {}}
            client.delete(index=new)
            client.create(index=old, mappings={**MAPPINGS, "_meta": meta}, aliases=aliases)
        else:
            reset_outbox_versions(app)
            if "changed" in loss:
                for number in range(5):
                    begin_write(db.session)
                    change = update(User).where(User.username == "Alice").values(search_text=f"  alicia {number}")
                    db.session.execute(change)
                    db.session.commit()
    make_verification_due(app)
    index_everything(app)
    assert is_consistent(app) and search_names(app, "veronika")[0] == ["Veronika"]
    assert app.extensions["elasticsearch"].is_ready


def reset_outbox_versions(app):
    """Have the outbox count its versions from 1 again, as after restoring a backup of the database."""
    statements = {
        "postgresql": "SELECT setval('search_outbox_id_seq', 1, false)",
        "sqlite": "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'search_outbox'",
    }
    begin_write(db.session)
    db.session.execute(text(statements[db.engine.dialect.name]))
    db.session.execute(update(outbox.search_indexes).values(known=0))
    db.session.commit()


def test_search_survives_elasticsearch_outages(app_with_indexer, proxy, elasticsearch):
    if not hasattr(elasticsearch, "kill"):
        pytest.skip("the server at ELASTICSEARCH_TEST_URL must not be killed")
    app = app_with_indexer
    for outage in ("freeze", "kill"):
        getattr(elasticsearch, outage)()
        for number in range(5):
            rename(app, "Nika" if number == 0 else f"Zoe {number - 1}", f"Zoe {number}")
            found, took = search_names(app, f"zoe {number}")
            assert took < SECONDS and found == [f"Zoe {number}"]
        rename(app, "Zoe 4", "Nika")
        elasticsearch.thaw() if outage == "freeze" else elasticsearch.start()
        wait_until(lambda: app.extensions["elasticsearch"].is_ready, 60)
        wait_until_indexed(app)
        assert search_names(app)[0] == NIKA_HITS and app.extensions["elasticsearch"].is_ready and is_consistent(app)


def test_new_index_survives_power_failure(app, elasticsearch):
    """Its documents have no versions yet that would reveal a loss."""
    if not hasattr(elasticsearch, "kill"):
        pytest.skip("the server at ELASTICSEARCH_TEST_URL must not be killed")
    with app.app_context(), indexer_of(app).lock(User):
        indexer_of(app).build(User)
    built = set(indexer_of(app).indexes(User))
    elasticsearch.kill()
    elasticsearch.start()
    wait_until(lambda: is_consistent(app))  # the first responses take longer than the timeout of a search
    assert set(indexer_of(app).indexes(User)) == built


def test_search_falls_back_while_another_indexer_is_stuck(app):
    rename(app, "Nika", "Veronika")
    with app.app_context():
        assert outbox.acquire_lease("users", "other") is False
        assert indexer_of(app).step() and app.extensions["elasticsearch"].is_ready
        begin_write(db.session)
        db.session.execute(update(outbox.search_outbox).values(created_at=now() - 2 * outbox.LEASE))
        db.session.commit()
        assert not indexer_of(app).step() and not app.extensions["elasticsearch"].is_ready
        assert search_names(app, "veronika")[0] == ["Veronika"]
        outbox.release_lease("users", "other")
    index_everything(app)
    assert app.extensions["elasticsearch"].is_ready


# Several installations on one server.


def test_index_of_another_installation_is_not_used_until_taken_over(app, make_app, proxy, caplog):
    other = make_app(ELASTICSEARCH_URL=proxy.url, ELASTICSEARCH_PREFIX=app.config["ELASTICSEARCH_PREFIX"])
    other.viewer = make_person(other, "Viewer")
    make_person(other, "Nikita", "n@nox.example")
    other.extensions["indexer"].start = lambda: None
    with other.app_context():
        assert not other.extensions["indexer"].step()
        with pytest.raises(ForeignIndex):
            other.extensions["indexer"].verify(User)
    assert "another installation" in caplog.text and search_names(other, "nikita")[0] == ["Nikita"]
    assert search_names(app)[0] == NIKA_HITS and app.extensions["elasticsearch"].is_ready
    runner = other.test_cli_runner()
    refused = runner.invoke(args=["search", "reindex"])
    assert refused.exit_code == 1 and "another installation" in refused.output
    assert runner.invoke(args=["search", "reindex", "--take-over"]).exit_code == 0
    index_everything(other)
    assert search_names(other, "nikita")[0] == ["Nikita"] and other.extensions["elasticsearch"].is_ready
    # The previous owner of the index searches its database from now on.
    make_verification_due(app)
    with app.app_context():
        assert not indexer_of(app).step()
    assert search_names(app)[0] == NIKA_HITS


def test_installations_with_different_prefixes_are_independent(make_app, proxy):
    base_prefix = index_prefix()
    one = make_elasticsearch_app(make_app, proxy.url, ELASTICSEARCH_PREFIX=base_prefix)
    other = make_elasticsearch_app(make_app, proxy.url, ELASTICSEARCH_PREFIX=f"{base_prefix}_users")
    for app in (one, other):
        app.index = f"{app.config['ELASTICSEARCH_PREFIX']}-users"
        index_everything(app)
    assert other.test_cli_runner().invoke(args=["search", "forget", "--yes"]).exit_code == 0
    assert search_names(one)[0] == NIKA_HITS and one.extensions["elasticsearch"].is_ready and is_consistent(one)


# Pages.


def test_cursor_of_one_engine_continues_in_another(app, proxy):
    with app.app_context():
        begin_write(db.session)
        for number in range(130):
            name = f"{'Anna' if number % 3 else 'Bianna'} {number}"
            user = accounts.create(name, f"anna{number}@nox.example", "!")
            assert user
        db.session.commit()
    index_everything(app)
    elasticsearch_only, mixed = [], []
    for collected, failing_pages in ((elasticsearch_only, []), (mixed, [1, 3, 4])):
        cursor, page_number = None, 0
        with app.test_request_context():
            while True:
                if page_number in failing_pages:
                    app.extensions["elasticsearch"].open_circuit("failed for one page")
                page = relationships.search_people(app.viewer, Query.parse("anna"), cursor)
                collected += [person.username for person, _state in page.items]
                app.extensions["elasticsearch"].close_circuit()
                cursor, page_number = page.next_cursor, page_number + 1
                if not cursor:
                    break
        assert page_number == 7
    assert len(elasticsearch_only) == 130 and mixed == elasticsearch_only


def test_page_is_full_despite_hidden_hits(app):
    with app.app_context():
        begin_write(db.session)
        annas = [accounts.create(f"Anna {number:03}", f"anna{number}@nox.example", "!") for number in range(100)]
        db.session.commit()
    index_everything(app)
    with app.test_request_context():
        for anna in annas[:60]:
            begin_write(db.session)
            friendships.block(app.viewer, anna) if anna.id % 2 else friendships.block(anna, app.viewer)
            db.session.commit()
        page = relationships.search_people(app.viewer, Query.parse("anna"), None)
        assert [person.username for person, _state in page.items] == [f"Anna {n:03}" for n in range(60, 80)]
        rest = relationships.search_people(app.viewer, Query.parse("anna"), page.next_cursor)
        assert [person.username for person, _state in rest.items] == [f"Anna {n:03}" for n in range(80, 100)]
        assert app.extensions["elasticsearch"].is_ready


def test_database_completes_page_when_elasticsearch_fails(app, proxy, monkeypatch):
    with app.app_context():
        begin_write(db.session)
        annas = [accounts.create(f"Anna {number:03}", f"anna{number}@nox.example", "!") for number in range(60)]
        db.session.commit()
    index_everything(app)
    engine, calls = app.extensions["elasticsearch"], []
    fetch_hits = engine._fetch_hits

    def fail_second_time(*args):
        calls.append(args)
        proxy.fault = "truncate" if len(calls) > 1 else PASS
        return fetch_hits(*args)

    monkeypatch.setattr(engine, "_fetch_hits", fail_second_time)
    with app.test_request_context():
        for anna in annas[5:35]:
            begin_write(db.session)
            friendships.block(app.viewer, anna)
            db.session.commit()
        page = relationships.search_people(app.viewer, Query.parse("anna"), None)
    assert len(calls) == 2 and not engine.is_ready
    visible = [number for number in range(60) if not 5 <= number < 35]
    assert [person.username for person, _state in page.items] == [f"Anna {number:03}" for number in visible[:20]]


def test_deleted_account_in_outdated_index_is_not_shown(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(delete(User).where(User.username == "Nika"))
        db.session.commit()
    assert search_names(app)[0] == NIKA_HITS[1:] and app.extensions["elasticsearch"].is_ready


def test_search_page_uses_elasticsearch(app, proxy):
    browser = Browser(app, app.viewer)
    request_count = proxy.request_count
    response = browser.get("/search?q=nika", htmx=True)
    assert response.status_code == 200 and proxy.request_count == request_count + 1
    assert all(name in response.text for name in ("Nikanor", "Anika"))


# `flask search reindex`.


def test_reindex_keeps_search_available_and_includes_concurrent_changes(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    monkeypatch.setattr("noxchat.search.indexer.POLL_SECONDS", 0)
    indexer = indexer_of(app)
    before = set(indexer.indexes(User))
    steps, found = [], []

    def change_and_search(count):
        if len(steps) in (1, 3):
            rename(app, "Nika" if len(steps) == 1 else "Nika 1", f"Nika {len(steps)}")
            make_person(app, f"Late {len(steps)}", f"late{len(steps)}@nox.example")
        steps.append(count)
        found.append("Anika" in search_names(app, "anika")[0] and app.extensions["elasticsearch"].is_ready)

    with app.app_context():
        assert User.reindex(change_and_search) == ""
    assert len(found) > 4 and all(found), "the old index is searched until the new one is complete"
    after = set(indexer.indexes(User))
    assert len(after) == 1 and not before & after, "the old index is deleted"
    index_everything(app)
    assert search_names(app, "late")[0] == ["Late 1", "Late 3"] and search_names(app, "nika 3")[0][0] == "Nika 3"
    assert is_consistent(app)


def test_reindex_can_be_interrupted_and_repeated(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    indexer = indexer_of(app)
    before = set(indexer.indexes(User))

    def interrupt(_count):
        raise KeyboardInterrupt

    with app.app_context(), pytest.raises(KeyboardInterrupt), indexer.lock(User):
        indexer.build(User, interrupt)
    assert set(indexer.indexes(User)) == before
    # An unfinished index left by a process that was killed.
    with app.app_context():
        meta = {"place": outbox.register("users"), "layout": INDEX_VERSION}
        indexer.client.indices.create(index=f"{app.index}-1", mappings={**MAPPINGS, "_meta": meta})
    rename(app, "Nika", "Veronika")
    result = app.test_cli_runner().invoke(args=["search", "reindex"])
    assert result.exit_code == 0 and f"{len(NAMES) + 1} people indexed: Elasticsearch" in result.output, result.output
    assert len(indexer.indexes(User)) == 1 and not before & set(indexer.indexes(User))
    index_everything(app)
    assert search_names(app, "veronika")[0] == ["Veronika"] and is_consistent(app)


def test_reindex_recomputes_search_texts(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  somebody"))
        db.session.commit()
    assert app.test_cli_runner().invoke(args=["search", "reindex"]).exit_code == 0
    index_everything(app)
    assert search_names(app, "alice")[0] == ["Alice"] and search_names(app, "somebody")[0] == [] and is_consistent(app)


# Other commands of `flask search`.


def test_check_finds_and_repairs_differences(app):
    for number in range(4):
        rename(app, "Nikanor" if number == 0 else f"Nikanor {number - 1}", f"Nikanor {number}")
    rename(app, "Nikanor 3", "Nikanor")
    index_everything(app)
    indexer = indexer_of(app)
    [name] = indexer.indexes(User)
    with app.app_context():
        ids = dict(map(tuple, db.session.execute(select(User.username, User.id))))
    indexer.client.delete(index=name, id=str(ids["Nika"]))
    indexer.client.index(index=name, id=str(ids["Alice"]), document=make_document(ids["Alice"], 0, "  bob\t  p-4\t"))
    indexer.client.index(index=name, id="999999", document=make_document(999999, 0, "  ghost\t  ghost\t"))
    indexer.client.indices.refresh(index=name)
    output = run_check(app)
    assert f"1 missing: {ids['Nika']}" in output and f"1 different: {ids['Alice']}" in output
    assert "1 too many: 999999" in output and "3 differences" in output
    assert "3 differences, 0 left" in run_check(app, "--repair")
    assert is_consistent(app) and search_names(app)[0] == NIKA_HITS


def test_status_and_sync_commands(app, proxy):
    run = app.test_cli_runner().invoke
    count = len(NAMES) + 1
    output = run(args=["search", "status"]).output
    assert f"Documents: {count} of {count} rows" in output and "0 users wait" in output and proxy.url in output
    assert re.search(rf"Index: +{app.index}-\d+", output)
    rename(app, "Nika", "Veronika")
    assert "1 users wait" in run(args=["search", "status"]).output
    assert run(args=["search", "sync"]).output == "1 users sent.\n"
    assert search_names(app, "veronika")[0] == ["Veronika"] and app.extensions["elasticsearch"].is_ready
    proxy.fault = "refuse"
    for command in ("status", "sync", "check", "reindex"):
        result = run(args=["search", command])
        assert result.exit_code == 1 and "Error: Elasticsearch at" in result.output, (command, result.output)


def test_search_commands_without_elasticsearch(any_app):
    run = any_app.test_cli_runner().invoke
    assert "ELASTICSEARCH_URL is not set" in run(args=["search", "status"]).output
    for command in ("sync", "check", "forget"):
        result = run(args=["search", command])
        assert result.exit_code == 1 and "ELASTICSEARCH_URL is not set" in result.output
    make_person(any_app, "Alice")
    assert "1 people indexed" in run(args=["search", "reindex"]).output


def test_forget_deletes_index_and_stops_recording_changes(app, make_app):
    app_without = make_app(uri=app.config["SQLALCHEMY_DATABASE_URI"])
    assert "still recorded" in app_without.test_cli_runner().invoke(args=["doctor"]).output
    assert app.test_cli_runner().invoke(args=["search", "forget"], input="n\n").exit_code == 1
    assert app.test_cli_runner().invoke(args=["search", "forget", "--yes"]).exit_code == 0
    assert indexer_of(app).indexes(User) == {}
    rename(app, "Nika", "Veronika")
    assert outbox_versions(app) == {}
    assert "still recorded" not in app_without.test_cli_runner().invoke(args=["doctor"]).output


# Credentials and certificates.


@pytest.mark.parametrize("fault", [PASS, "401", "500", "refuse", "hang", "noise", "html"])
@pytest.mark.parametrize("method", ["password", "API key"])
def test_credentials_are_sent_to_server_and_never_logged(make_app, proxy, fault, method, caplog, capfd, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.TIMEOUT_SECONDS", 0.5)
    caplog.set_level(logging.DEBUG)
    secret = "hush/hush s3cret"
    if method == "password":
        extra = {"ELASTICSEARCH_URL": proxy.url.replace("://", "://elastic:hush%2Fhush%20s3cret@")}
    else:
        extra = {"ELASTICSEARCH_URL": proxy.url, "ELASTICSEARCH_API_KEY": secret}
    proxy.fault = fault
    app = make_app(ELASTICSEARCH_PREFIX=index_prefix(), **extra)
    app.viewer = make_person(app, "Viewer")
    with app.app_context():
        app.extensions["indexer"].step()
    app.extensions["elasticsearch"].close_circuit()
    search_names(app)
    output = "".join(
        app.test_cli_runner().invoke(args=arguments).output
        for arguments in (["doctor"], ["search", "status"], ["search", "sync"], ["search", "reindex"])
    )
    output += app.test_client().get("/readyz").text + caplog.text + "".join(capfd.readouterr())
    output += (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert "hush" not in output and "s3cret" not in output
    if fault not in ("refuse",):
        credentials = base64.b64encode(f"elastic:{secret}".encode()) if method == "password" else secret.encode()
        assert all(credentials in request for request in proxy.requests) and proxy.requests


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
        with distrusting_app.app_context():
            assert not distrusting_app.extensions["indexer"].step()
            with pytest.raises(ELASTICSEARCH_ERRORS):
                distrusting_app.extensions["elasticsearch"].client.cluster.health()
        assert proxy.requests == [], "no request is sent to an untrusted server"
        app = make_elasticsearch_app(make_app, url, ELASTICSEARCH_CA=certificate)
        index_everything(app)
        assert search_names(app)[0] == NIKA_HITS and app.extensions["elasticsearch"].is_ready and proxy.requests
    finally:
        proxy.close()


# A real server process.


def test_killed_server_loses_no_change(tmp_path, new_database, make_app, elasticsearch):
    """`bin/bench search` kills it fifty times."""
    uri, name = new_database("postgresql"), index_prefix()
    extra = {"ELASTICSEARCH_URL": elasticsearch.url, "ELASTICSEARCH_PREFIX": name}
    app = make_elasticsearch_app(make_app, elasticsearch.url, uri=uri, ELASTICSEARCH_PREFIX=name)
    app.extensions["indexer"].start = lambda: None
    app.index = f"{name}-users"
    for round_ in range(3):
        server = Server(tmp_path, uri, **extra)
        done = threading.Event()

        def rename_repeatedly(done=done, round_=round_):
            while not done.is_set():
                with app.app_context():
                    begin_write(db.session)
                    number = next(numbers)
                    db.session.execute(
                        update(User).where(User.username == "Alice").values(search_text=f"  a{round_}{number}\t")
                    )
                    db.session.commit()

        thread = threading.Thread(target=rename_repeatedly)
        thread.start()
        time.sleep(0.7 + 0.3 * round_)
        server.process.kill()
        done.set()
        thread.join()
        server.process.wait()
    server = Server(tmp_path, uri, **extra)
    try:
        wait_until(lambda: backlog(app).count == 0, 40)
        assert is_consistent(app)
    finally:
        server.stop()
