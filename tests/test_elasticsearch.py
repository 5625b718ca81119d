"""Elasticsearch, for real: faults of every kind, what is written down for it, and how its index becomes right again."""

import hashlib
import json
import logging
import re
import ssl
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
from tests.conftest import Browser, Server, make_person, numbers, prefix, run_in_threads, settings, settle, wait_until
from tests.elasticsearch.faults import ANSWERS, FAULTS, PASS, FaultProxy, answer

SECONDS = 2.0  # within which everything is answered, and found
NAMES = ["Nika", "Nikanor", "Anika", "Monika Nil", "Alice", "Алёна", "O'Neil"]


def elastic_app(make_app, url, kind="sqlite", **more):
    """Make an application with an index of its own, and some people."""
    more = {"ELASTICSEARCH_PREFIX": prefix(), **more}
    app = make_app(kind, ELASTICSEARCH_URL=url, **more)
    app.viewer = make_person(app, "Viewer", public_id="viewer")
    for place, name in enumerate(NAMES):
        make_person(app, name, f"p{place}@nox.example", public_id=f"p-{place}")
    return app


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request, make_app, proxy):
    """An application on each database, with everybody in its index, by a line that can be broken; nothing runs yet."""
    app = elastic_app(make_app, proxy.url, request.param)
    indexer = app.extensions["indexer"]
    app.start, indexer.start = indexer.start, lambda: None
    app.index = f"{app.config['ELASTICSEARCH_PREFIX']}-users"
    settle(app)
    return app


@pytest.fixture
def at_work(app):
    """An application of the same kind whose indexer runs."""
    app.extensions["indexer"].start = app.start
    app.start()
    return app


def indexer_of(app):
    return app.extensions["indexer"]


def names_found(app, typed="nika"):
    """Search as the page does, and return names and seconds."""
    with app.test_request_context():
        began = time.monotonic()
        page = relationships.search_people(app.viewer, Query.parse(typed), None)
        db.session.commit()
        return [person.username for person, _state in page.items], time.monotonic() - began


def rename(app, before, after):
    with app.app_context():
        begin_write(db.session)
        found = db.session.scalar(profiles.with_profile().where(User.username == before))
        profiles.edit(accounts.lock_account(found), username=after, public_id=found.profile.public_id, bio="")
        db.session.commit()
        return found.id


def waiting(app):
    with app.app_context():
        return outbox.backlog("users")


def half_a_minute_later(app):
    """Have a look at the index be due again, which nobody has found failing."""
    indexer_of(app).verified_at = -1e9


def handed_over(app):
    """Wait until nothing waits any more, and what was handed over is found."""
    wait_until(lambda: waiting(app).count == 0)
    indexer_of(app).client.indices.refresh(index=app.index)


def check(app, *arguments):
    """Compare index and database by the command; return what it said."""
    done = app.test_cli_runner().invoke(args=["search", "check", *arguments])
    assert done.exit_code in (0, 1), done.output
    return done.output


def wipe(app):
    """Have the server forget an index, as one does that was set up anew."""
    for name in indexer_of(app).indexes(User):
        indexer_of(app).client.indices.delete(index=name)


def is_right(app):
    return "users: 0 differences." in check(app)


NIKAS = ["Nika", "Nikanor", "Anika", "Monika Nil"]


# Nothing of it where it is not wanted, and no wait for it where it is.


def test_without_the_variable_nothing_of_it_is_loaded(tmp_path, new_database):
    program = (
        "import sys, threading; from config import Config; from noxchat import create_app, search\n"
        "app = create_app(Config(debug=False)); search.start(app)\n"
        "with app.app_context():\n from noxchat.models import User; from noxchat.search import Query\n"
        " from noxchat.search.engines import current_engine; current_engine()\n"
        "print(sorted(name for name in sys.modules if 'elastic' in name), [t.name for t in threading.enumerate()])"
    )
    environment = {**settings(tmp_path, new_database("sqlite")), "PATH": "/usr/bin", "ELASTICSEARCH_URL": ""}
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout.strip() == "[] ['MainThread']", said.stderr


def test_without_elasticsearch_no_change_is_written_down(any_app):
    make_person(any_app, "Alice")
    with any_app.app_context():
        assert db.session.execute(select(outbox.search_outbox)).all() == []


@pytest.mark.parametrize("fault", ["refuse", "hang", "nobody"])
def test_an_unreachable_server_delays_the_start_by_nothing(make_app, proxy, fault):
    proxy.fault = fault
    # An address of RFC 5737 that no packet comes back from.
    url = "http://192.0.2.1:9200" if fault == "nobody" else proxy.url
    make_app()  # what is loaded once
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


def test_a_server_starts_and_answers_while_elasticsearch_hangs(serve, proxy):
    proxy.fault = "hang"
    server = serve(ELASTICSEARCH_URL=proxy.url)
    assert server.get("/healthz").status == 200
    began = time.monotonic()
    ready = server.get("/readyz")
    assert ready.status == 200 and "database searches" in ready.text and time.monotonic() - began < SECONDS


# Faults.


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_database_answers_and_elasticsearch_is_left_alone(
    app, proxy, fault, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.MIN_OPEN_SECONDS", 0.1)
    assert names_found(app)[0] == NIKAS and app.extensions["elasticsearch"].is_ready
    asked = proxy.seen
    proxy.fault = fault
    found, took = names_found(app)
    assert found == NIKAS and took < SECONDS
    assert not app.extensions["elasticsearch"].is_ready
    seen = proxy.seen
    for _search in range(20):
        found, took = names_found(app)
        assert found == NIKAS and took < 0.5
    assert proxy.seen == seen, "it is left alone"
    warnings = [record.message for record in caplog.records if "searching in the database" in record.message]
    assert len(warnings) == 1 and seen - asked <= 1
    # And back again, by itself, with one line that tells it.
    proxy.fault = PASS
    app.extensions["indexer"].start = app.start
    app.start()
    wait_until(lambda: app.extensions["elasticsearch"].is_ready)
    before = proxy.seen
    assert names_found(app)[0] == NIKAS and proxy.seen > before
    returned = [
        record.message for record in caplog.records if record.message.startswith("searching with Elasticsearch")
    ]
    assert len(returned) == 1, returned


@pytest.mark.parametrize("fault", ["hang", "slow", "drip", "500"])
def test_twenty_who_search_at_once_when_it_fails_are_all_answered_in_time(app, proxy, fault):
    proxy.fault = fault
    results = run_in_threads(app, 20, lambda _number: names_found(app))
    assert all(found == NIKAS and took < SECONDS for found, took in results), results


@pytest.mark.parametrize("fault", ["drip", "endless", "hang", "cut"])
def test_no_connection_is_lost_with_an_answer_that_is_given_up(app, proxy, fault):
    elastic = app.extensions["elasticsearch"]
    for _time in range(app.config["THREADS"] + 8):
        proxy.fault = fault
        with pytest.raises(Exception):  # noqa: B017, PT011
            elastic.client.options(request_timeout=0.05).cluster.health()
    proxy.fault = PASS
    assert elastic.client.cluster.health()["status"]


def test_the_longer_it_fails_the_longer_it_is_left_alone(app, monkeypatch):
    elastic, clock = app.extensions["elasticsearch"], [1000.0]
    monkeypatch.setattr("noxchat.search.elasticsearch_engine.time.monotonic", lambda: clock[0])
    pauses = []
    for _failure in range(7):
        elastic.open_circuit("it broke")
        elastic.open_circuit("it broke, says another who waited for it")
        assert elastic.circuit_open
        pauses.append(elastic.open_until - clock[0])
        clock[0] = elastic.open_until + 0.1
        assert not elastic.circuit_open
    assert pauses == [1, 2, 4, 8, 15, 15, 15]
    elastic.close_circuit()
    clock[0] += 30
    elastic.open_circuit("again, soon")
    assert elastic.open_until - clock[0] == 15
    clock[0] += 20
    elastic.close_circuit()
    clock[0] += 3600
    elastic.open_circuit("after an hour")
    assert elastic.open_until - clock[0] == 1


def test_who_was_found_failing_meanwhile_is_not_taken_for_well(app, monkeypatch):
    elastic = app.extensions["elasticsearch"]
    monkeypatch.setattr(outbox, "lag", lambda _kind: elastic.open_circuit("a search failed just now"))
    with app.app_context():
        assert elastic.is_ready and not indexer_of(app).step() and not elastic.is_ready


def test_a_name_that_cannot_be_looked_up_is_not_waited_for(app, monkeypatch):
    """Nothing limits how long a system takes to find out an address."""
    import socket

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5) or real(*args, **kwargs))
    app.extensions["elasticsearch"].client.close()
    app.extensions["elasticsearch"].process_id = None
    found, took = names_found(app)
    assert found == NIKAS and took < SECONDS


@pytest.mark.parametrize("fault", ["refuse", "hang", "endless", "500", "noise", "json"])
def test_saving_never_waits_and_nothing_is_lost(app, proxy, fault):
    proxy.fault = fault
    app.extensions["indexer"].start = app.start
    app.start()
    browser = Browser(app, app.viewer)
    token = browser.token()
    began = time.monotonic()
    fields = {"username": f"Nikolas {fault}", "public_id": "viewer", "bio": ""}
    assert browser.post("/settings/profile", fields, token=token).status_code in (200, 303)
    assert time.monotonic() - began < 1
    assert waiting(app).count >= 1
    proxy.fault = PASS
    wait_until(lambda: app.extensions["elasticsearch"].is_ready, 60)
    handed_over(app)
    assert is_right(app)


def test_readyz_and_doctor_tell_and_never_fail_because_of_it(app, proxy):
    def doctor():
        done = app.test_cli_runner().invoke(args=["doctor"])
        return done.exit_code, next(line for line in done.output.splitlines() if "Elasticsearch:" in line)

    assert "ok" in doctor()[1] and doctor()[0] == 0
    ready = app.test_client().get("/readyz")
    assert ready.status_code == 200 and "answers" in ready.json["elasticsearch"]
    for fault in ("refuse", "hang", "drip", "endless", "401", "noise", "deep"):
        proxy.fault = fault
        began = time.monotonic()
        ready = app.test_client().get("/readyz")
        assert ready.status_code == 200 and "database searches" in ready.json["elasticsearch"]
        assert time.monotonic() - began < SECONDS
        code, said = doctor()
        assert code == 0 and said.startswith("note") and "database searches" in said


# What is written down.


def versions(app):
    with app.app_context():
        rows = db.session.execute(select(outbox.search_outbox.c.row_id, outbox.search_outbox.c.id))
        return dict(map(tuple, rows))


def test_every_change_is_written_down_in_its_own_transaction(app):
    assert versions(app) == {}
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  undone"))
        assert db.session.scalar(select(outbox.search_outbox.c.id))
        db.session.rollback()
    assert versions(app) == {}
    nika = rename(app, "Nika", "Veronika")
    first = versions(app)
    assert list(first) == [nika]
    rename(app, "Veronika", "Veronica")
    second = versions(app)
    assert list(second) == [nika] and second[nika] > first[nika], "one row each, with a version that grows"
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.id == nika).values(theme="night"))
        db.session.execute(update(User).where(User.id == nika).values(search_text=User.search_text))
        db.session.commit()
        assert versions(app) == second, "nothing that is searched was changed"
        begin_write(db.session)
        db.session.execute(delete(User).where(User.username.in_(["Alice", "Алёна"])))
        db.session.execute(text("UPDATE users SET search_text = '  x' || search_text WHERE username = 'Anika'"))
        db.session.commit()
    assert len(versions(app)) == 4
    new = make_person(app, "Newcomer", "new@nox.example")
    assert new.id in versions(app)
    settle(app)
    assert versions(app) == {} and is_right(app)


def test_no_row_is_forgotten_that_changed_while_it_was_handed_over(app):
    """The row's later version stays in the outbox."""
    nika = rename(app, "Nika", "Veronika")
    indexer = indexer_of(app)
    send = indexer._send

    def late(targets, rows):
        answer = send(targets, rows)
        rename(app, "Veronika", "Veronica")
        return answer

    with app.app_context(), indexer.lock(User):
        rows = outbox.next_changes(User, 10)
        answer = late([app.index], rows)
        assert not answer.refused
        assert outbox.complete("users", indexer.holder, [row.id for row in rows], {})
    assert list(versions(app)) == [nika]
    settle(app)
    assert names_found(app, "veronica")[0] == ["Veronica"] and is_right(app)


def test_a_late_older_write_does_not_win_neither_over_a_newer_nor_over_a_deletion(app):
    nika = rename(app, "Nika", "Veronika")
    with app.app_context():
        [old] = outbox.next_changes(User, 10)
    rename(app, "Veronika", "Veronica")
    settle(app)
    indexer = indexer_of(app)
    with app.app_context():
        assert not indexer._send([app.index], [old]).refused, "a write that lost is no failure"
        begin_write(db.session)
        db.session.execute(delete(User).where(User.id == nika))
        db.session.commit()
    settle(app)
    with app.app_context():
        assert not indexer._send([app.index], [old]).refused
        indexer._send([app.index], [(0, nika, "  nika")])
    indexer.client.indices.refresh(index=app.index)
    assert is_right(app) and "Veronika" not in names_found(app)[0]


@pytest.mark.parametrize("how", ["page", "other process"])
def test_a_change_is_found_within_two_seconds(serve, elasticsearch, tmp_path, how, make_app, new_database):
    uri = new_database("postgresql")
    more = {"ELASTICSEARCH_URL": elasticsearch.url, "ELASTICSEARCH_PREFIX": prefix()}
    other = make_app(uri=uri)
    viewer = make_person(other, "Viewer")
    server = serve(uri=uri, **more)
    app = make_app(uri=uri, **more)
    app.viewer = viewer
    wait_until(lambda: app.test_cli_runner().invoke(args=["search", "status"]).output.count("Documents: 1 of 1"))
    app.extensions["indexer"].start = lambda: None
    with app.app_context():
        wait_until(app.extensions["indexer"].step)
    for number in range(5):
        make_person(other if how == "page" else app, f"Zora {number}", f"z{number}@nox.example")
        began = time.monotonic()
        while f"Zora {number}" not in names_found(app, "zora")[0]:
            assert time.monotonic() - began < SECONDS
            time.sleep(0.02)
        assert app.extensions["elasticsearch"].is_ready
    server.stop()


@pytest.mark.parametrize("block", ["index.blocks.write", "index.blocks.read_only"])
def test_an_index_that_may_not_be_written_is_no_fault_of_the_rows(app, block):
    [name] = indexer_of(app).indexes(User)
    indexer_of(app).client.indices.put_settings(index=name, settings={block: True})
    rename(app, "Nika", "Veronika")
    with app.app_context():
        assert not indexer_of(app).step()
    assert waiting(app).count == 1 and waiting(app).refused == 0
    assert names_found(app, "veronika")[0] == ["Veronika"], "by the database"
    indexer_of(app).client.indices.put_settings(index=name, settings={block: False})
    settle(app)
    assert is_right(app) and names_found(app, "veronika")[0] == ["Veronika"]


def test_who_drains_a_long_outbox_does_not_ask_an_index_that_is_behind(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.CHANGES_PER_BATCH", 1)
    rename(app, "Nika", "Veronika")
    rename(app, "Alice", "Alicia")
    found, send = [], indexer_of(app)._send

    def sending(targets, rows):
        found.append(names_found(app, "alicia")[0])
        return send(targets, rows)

    monkeypatch.setattr(indexer_of(app), "_send", sending)
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(outbox.search_outbox).values(created_at=now() - 2 * outbox.LEASE))
        db.session.commit()
        indexer_of(app).step()
    assert found == [["Alicia"], ["Alicia"]] and waiting(app).count == 0


def test_a_row_that_somebody_holds_for_long_holds_up_nobody_else(make_app, proxy):
    app = elastic_app(make_app, proxy.url, "postgresql")
    app.extensions["indexer"].start = lambda: None
    settle(app)
    rename(app, "Nika", "Veronika")
    with app.app_context(), db.engine.connect() as other:
        other.execute(update(User).where(User.username == "Veronika").values(search_text="  held"))
        rename(app, "Alice", "Alicia")
        began, before = time.monotonic(), proxy.seen
        assert indexer_of(app).step()
        assert time.monotonic() - began < 1 and proxy.seen - before < 6, "and nobody spins"
        assert waiting(app).count == 1
        other.rollback()
    settle(app)
    assert names_found(app, "veronika")[0] == ["Veronika"] and names_found(app, "alicia")[0] == ["Alicia"]


def test_what_the_index_refuses_is_set_aside_told_and_stops_nobody_else(app, caplog):
    with app.app_context():
        begin_write(db.session)
        # Lucene takes no term of more than 32,766 bytes.
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  " + "x" * 40_000))
        db.session.commit()
    rename(app, "Nika", "Veronika")
    settle(app)
    assert names_found(app, "veronika")[0] == ["Veronika"]
    assert waiting(app).count == 0 and waiting(app).refused == 1
    assert "was refused" in caplog.text
    done = app.test_cli_runner().invoke(args=["doctor"])
    assert "1 rows were refused" in done.output and done.exit_code == 0
    assert "document_parsing_exception" in app.test_cli_runner().invoke(args=["search", "status"]).output
    # An index that is built has the same trouble, and is built all the same.
    assert app.test_cli_runner().invoke(args=["search", "reindex"]).exit_code == 0
    assert names_found(app, "alice")[0] == ["Alice"], "whose text is written anew by that, and indexed"
    settle(app)
    assert waiting(app).refused == 0 and is_right(app)


def test_an_index_is_built_although_a_row_is_refused(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  " + "x" * 40_000))
        db.session.commit()
        with indexer_of(app).lock(User):
            indexer_of(app).build(User)
    settle(app)
    assert waiting(app).refused == 1 and names_found(app)[0] == NIKAS and app.extensions["elasticsearch"].is_ready
    rename(app, "Alice", "Alicia")
    settle(app)
    assert waiting(app).refused == 0 and names_found(app, "alicia")[0] == ["Alicia"] and is_right(app)


def test_a_server_that_cannot_take_a_document_just_now_is_given_it_again(app, proxy, monkeypatch):
    rename(app, "Nika", "Veronika")
    full = b'{"items": [{"index": {"status": 429, "error": {"type": "es_rejected_execution_exception"}}}]}'
    monkeypatch.setitem(ANSWERS, "full", answer("200 OK", full))
    proxy.fault = "full"
    with app.app_context():
        assert not indexer_of(app).step() and not app.extensions["elasticsearch"].is_ready
    assert waiting(app).count == 1 and waiting(app).refused == 0
    proxy.fault = PASS
    settle(app)
    assert names_found(app, "veronika")[0] == ["Veronika"]


# One at a time.


def test_one_process_writes_at_a_time_and_another_takes_over_from_one_that_died(app):
    with app.app_context():
        assert outbox.acquire_lease("users", "one") is False and outbox.acquire_lease("users", "one") is False
        assert outbox.acquire_lease("users", "other") is None
        with pytest.raises(IndexLocked), indexer_of(app).lock(User):
            pass
        outbox.release_lease("users", "other")
        assert outbox.acquire_lease("users", "other") is None, "nobody gives back what is not theirs"
        begin_write(db.session)
        past = now() - outbox.LEASE
        db.session.execute(update(outbox.search_indexes).values(held_until=past))
        db.session.commit()
        assert outbox.acquire_lease("users", "other") is True and outbox.acquire_lease("users", "one") is None
        outbox.release_lease("users", "other")
    results = run_in_threads(app, 8, lambda number: outbox.acquire_lease("users", f"holder {number}"))
    assert results.count(False) == 1 and results.count(None) == 7, results


def test_who_was_frozen_while_another_took_over_forgets_nothing_and_swaps_nothing(app):
    """The other may be building an index which does not know of it, or have handed over what the frozen one's lacks."""
    nika = rename(app, "Nika", "Veronika")
    indexer, other = indexer_of(app), type(indexer_of(app))(app, app.extensions["elasticsearch"])

    def expire():
        begin_write(db.session)
        db.session.execute(update(outbox.search_indexes).values(held_until=now() - outbox.LEASE))
        db.session.commit()

    send = indexer._send

    def frozen(targets, rows):
        answer = send(targets, rows)
        expire()
        assert outbox.acquire_lease("users", "other") is True
        return answer

    indexer._send = frozen
    with app.app_context():
        with pytest.raises(IndexLocked), indexer.lock(User):
            indexer.drain(User)
        assert list(versions(app)) == [nika]
        indexer._send = send
        outbox.release_lease("users", "other")

    def while_it_builds(_count):
        expire()
        with other.lock(User):
            other.drain(User)

    before = set(indexer.indexes(User))
    with app.app_context(), pytest.raises((IndexLocked, *ELASTICSEARCH_ERRORS)), indexer.lock(User):
        indexer.build(User, while_it_builds)
    assert set(indexer.indexes(User)) == before
    settle(app)
    assert is_right(app) and names_found(app, "veronika")[0] == ["Veronika"]


def test_an_index_of_a_newer_version_is_not_asked_and_not_built_anew(app, monkeypatch):
    """While machines are brought up to date one after the other."""
    before = set(indexer_of(app).indexes(User))
    monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION - 1)
    half_a_minute_later(app)
    with app.app_context():
        assert not indexer_of(app).step()
    assert names_found(app)[0] == NIKAS and set(indexer_of(app).indexes(User)) == before


def test_a_missing_index_is_built_by_one_process(app, elasticsearch, monkeypatch):
    built = []
    wipe(app)
    assert names_found(app)[0] == NIKAS and not app.extensions["elasticsearch"].is_ready
    indexer = indexer_of(app)
    build = type(indexer).build

    def counted(self, *args, **kwargs):
        built.append(self)
        time.sleep(0.3)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(type(indexer), "build", counted)
    others = [type(indexer)(app, app.extensions["elasticsearch"]) for _process in range(5)]
    run_in_threads(app, 5, lambda number: others[number].step())
    assert len(built) == 1
    with app.app_context():
        wait_until(others[0].step)
    assert app.extensions["elasticsearch"].is_ready and names_found(app)[0] == NIKAS and is_right(app)


def test_two_threads_of_one_process_do_not_write_together(app):
    wipe(app)
    app.extensions["elasticsearch"].is_ready = False
    run_in_threads(app, 6, lambda _number: indexer_of(app).step())
    settle(app)
    assert len(indexer_of(app).indexes(User)) == 1 and names_found(app)[0] == NIKAS and is_right(app)


def layouts(app):
    with app.app_context():
        return [about["mappings"]["_meta"]["layout"] for about in indexer_of(app).indexes(User).values()]


def test_an_index_of_an_older_layout_is_built_anew(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.INDEX_VERSION", INDEX_VERSION + 1)
    with app.app_context(), pytest.raises(IndexUnusable):
        indexer_of(app).verify(User)
    half_a_minute_later(app)
    assert names_found(app)[0] == NIKAS
    settle(app)
    assert layouts(app) == [INDEX_VERSION + 1] and names_found(app)[0] == NIKAS and is_right(app)


def test_the_layout_is_numbered_anew_with_every_change():
    sample = [MAPPINGS, make_document(7, 3, make_search_text("Anna O'Neil", "anna_o"))]
    digest = hashlib.sha256(json.dumps(sample, sort_keys=True).encode()).hexdigest()[:12]
    assert {digest: INDEX_VERSION} == {"862b07cb6d08": 1}, (
        "raise INDEX_VERSION, so that old indexes are built anew, and write both here"
    )


def test_documents_hold_nothing_but_what_is_searched():
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
    "what",
    [
        *("wiped", "older copy of the index", "alias gone", "another index under its name", "two of them"),
        *("older copy of the database", "older copy of the database, changed since"),
    ],
)
def test_after_a_loss_everything_becomes_right_by_itself(app, what):
    indexer = indexer_of(app)
    rename(app, "Nika", "Veronika")
    settle(app)
    with app.app_context():
        if what == "wiped":
            wipe(app)
        elif what == "alias gone":
            [name] = indexer.indexes(User)
            indexer.client.indices.delete_alias(index=name, name=app.index)
        elif what == "older copy of the index":
            number = db.session.scalar(select(User.id).where(User.username == "Veronika"))
            [name] = indexer.indexes(User)
            indexer.client.delete(index=name, id=str(number))
            indexer.client.index(index=name, id=str(number), document=make_document(number, 0, "  nika\t"))
        elif what == "two of them":
            meta = {"place": outbox.register("users"), "layout": INDEX_VERSION}
            indexer.client.indices.create(
                index=f"{app.index}-2", mappings={**MAPPINGS, "_meta": meta}, aliases={app.index: {}}
            )
        elif what == "another index under its name":
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
            put_back(app)
            if "since" in what:
                for number in range(5):
                    begin_write(db.session)
                    change = update(User).where(User.username == "Alice").values(search_text=f"  alicia {number}")
                    db.session.execute(change)
                    db.session.commit()
    half_a_minute_later(app)
    settle(app)
    assert is_right(app) and names_found(app, "veronika")[0] == ["Veronika"]
    assert app.extensions["elasticsearch"].is_ready


def put_back(app):
    """Have the database be as it was before the last change: its numbers begin again where they were."""
    sequence = {
        "postgresql": "SELECT setval('search_outbox_id_seq', 1, false)",
        "sqlite": "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'search_outbox'",
    }
    begin_write(db.session)
    db.session.execute(text(sequence[db.engine.dialect.name]))
    db.session.execute(update(outbox.search_indexes).values(known=0))
    db.session.commit()


def test_a_server_that_dies_freezes_and_comes_back_is_not_noticed(at_work, proxy, elasticsearch):
    if not hasattr(elasticsearch, "kill"):
        pytest.skip("ELASTICSEARCH_TEST_URL is not the tests' own to kill")
    app = at_work
    for outage in ("freeze", "kill"):
        getattr(elasticsearch, outage)()
        for number in range(5):
            rename(app, "Nika" if number == 0 else f"Zoe {number - 1}", f"Zoe {number}")
            found, took = names_found(app, f"zoe {number}")
            assert took < SECONDS and found == [f"Zoe {number}"]
        rename(app, "Zoe 4", "Nika")
        elasticsearch.thaw() if outage == "freeze" else elasticsearch.start()
        wait_until(lambda: app.extensions["elasticsearch"].is_ready, 60)
        handed_over(app)
        assert names_found(app)[0] == NIKAS and app.extensions["elasticsearch"].is_ready and is_right(app)


def test_an_index_that_was_just_built_is_whole_after_a_power_cut(app, elasticsearch):
    """Nothing in it has a version yet by which a loss could be told."""
    if not hasattr(elasticsearch, "kill"):
        pytest.skip("ELASTICSEARCH_TEST_URL is not the tests' own to kill")
    with app.app_context(), indexer_of(app).lock(User):
        indexer_of(app).build(User)
    built = set(indexer_of(app).indexes(User))
    elasticsearch.kill()
    elasticsearch.start()
    wait_until(lambda: is_right(app))  # its first answers take longer than a search waits
    assert set(indexer_of(app).indexes(User)) == built


def test_an_index_that_falls_too_far_behind_is_not_asked(app):
    """Somebody else writes it, and does not get on."""
    rename(app, "Nika", "Veronika")
    with app.app_context():
        assert outbox.acquire_lease("users", "somebody") is False
        assert indexer_of(app).step() and app.extensions["elasticsearch"].is_ready
        begin_write(db.session)
        db.session.execute(update(outbox.search_outbox).values(created_at=now() - 2 * outbox.LEASE))
        db.session.commit()
        assert not indexer_of(app).step() and not app.extensions["elasticsearch"].is_ready
        assert names_found(app, "veronika")[0] == ["Veronika"]
        outbox.release_lease("users", "somebody")
    settle(app)
    assert app.extensions["elasticsearch"].is_ready


# Two on one server.


def test_the_index_of_another_place_is_left_alone_until_it_is_taken_over(app, make_app, proxy, caplog):
    other = make_app(ELASTICSEARCH_URL=proxy.url, ELASTICSEARCH_PREFIX=app.config["ELASTICSEARCH_PREFIX"])
    other.viewer = make_person(other, "Viewer")
    make_person(other, "Nikita", "n@nox.example")
    other.extensions["indexer"].start = lambda: None
    with other.app_context():
        assert not other.extensions["indexer"].step()
        with pytest.raises(ForeignIndex):
            other.extensions["indexer"].verify(User)
    assert "another installation" in caplog.text and names_found(other, "nikita")[0] == ["Nikita"]
    assert names_found(app)[0] == NIKAS and app.extensions["elasticsearch"].is_ready
    runner = other.test_cli_runner()
    refused = runner.invoke(args=["search", "reindex"])
    assert refused.exit_code == 1 and "another installation" in refused.output
    assert runner.invoke(args=["search", "reindex", "--take-over"]).exit_code == 0
    settle(other)
    assert names_found(other, "nikita")[0] == ["Nikita"] and other.extensions["elasticsearch"].is_ready
    # Whose index it was is answered by the database, and asks no index that knows other people.
    half_a_minute_later(app)
    with app.app_context():
        assert not indexer_of(app).step()
    assert names_found(app)[0] == NIKAS


def test_two_places_with_prefixes_of_their_own_know_nothing_of_each_other(make_app, proxy):
    both = prefix()
    one = elastic_app(make_app, proxy.url, ELASTICSEARCH_PREFIX=both)
    other = elastic_app(make_app, proxy.url, ELASTICSEARCH_PREFIX=f"{both}_users")
    for app in (one, other):
        app.index = f"{app.config['ELASTICSEARCH_PREFIX']}-users"
        settle(app)
    assert other.test_cli_runner().invoke(args=["search", "forget", "--yes"]).exit_code == 0
    assert names_found(one)[0] == NIKAS and one.extensions["elasticsearch"].is_ready and is_right(one)


# Pages.


def test_a_cursor_made_by_one_engine_goes_on_in_another_without_a_gap_or_a_double(app, proxy):
    with app.app_context():
        begin_write(db.session)
        for number in range(130):
            name = f"{'Anna' if number % 3 else 'Bianna'} {number}"
            user = accounts.create(name, f"anna{number}@nox.example", "!")
            assert user
        db.session.commit()
    settle(app)
    whole, mixed = [], []
    for collected, broken in ((whole, []), (mixed, [1, 3, 4])):
        cursor, page_number = None, 0
        with app.test_request_context():
            while True:
                if page_number in broken:
                    app.extensions["elasticsearch"].open_circuit("for a page")
                page = relationships.search_people(app.viewer, Query.parse("anna"), cursor)
                collected += [person.username for person, _state in page.items]
                app.extensions["elasticsearch"].close_circuit()
                cursor, page_number = page.next_cursor, page_number + 1
                if not cursor:
                    break
        assert page_number == 7
    assert len(whole) == 130 and mixed == whole


def test_a_page_is_full_although_many_of_its_hits_may_not_be_seen(app):
    with app.app_context():
        begin_write(db.session)
        annas = [accounts.create(f"Anna {number:03}", f"anna{number}@nox.example", "!") for number in range(100)]
        db.session.commit()
    settle(app)
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


def test_where_elasticsearch_fails_in_the_middle_of_a_page_the_database_goes_on(app, proxy, monkeypatch):
    with app.app_context():
        begin_write(db.session)
        annas = [accounts.create(f"Anna {number:03}", f"anna{number}@nox.example", "!") for number in range(60)]
        db.session.commit()
    settle(app)
    elastic, asked = app.extensions["elasticsearch"], []
    ask = elastic._fetch_hits

    def failing(*args):
        asked.append(args)
        proxy.fault = "cut" if len(asked) > 1 else PASS
        return ask(*args)

    monkeypatch.setattr(elastic, "_fetch_hits", failing)
    with app.test_request_context():
        for anna in annas[5:35]:
            begin_write(db.session)
            friendships.block(app.viewer, anna)
            db.session.commit()
        page = relationships.search_people(app.viewer, Query.parse("anna"), None)
    assert len(asked) == 2 and not elastic.is_ready
    left = [number for number in range(60) if not 5 <= number < 35]
    assert [person.username for person, _state in page.items] == [f"Anna {number:03}" for number in left[:20]]


def test_who_was_deleted_is_not_shown_although_the_index_still_knows_them(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(delete(User).where(User.username == "Nika"))
        db.session.commit()
    assert names_found(app)[0] == NIKAS[1:] and app.extensions["elasticsearch"].is_ready


def test_the_page_itself_is_answered_by_elasticsearch(app, proxy):
    browser = Browser(app, app.viewer)
    seen = proxy.seen
    answer = browser.get("/search?q=nika", htmx=True)
    assert answer.status_code == 200 and proxy.seen == seen + 1
    assert all(name in answer.text for name in ("Nikanor", "Anika"))


# Building anew, by hand.


def test_reindex_builds_beside_the_old_and_has_what_changed_meanwhile(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    monkeypatch.setattr("noxchat.search.indexer.POLL_SECONDS", 0)
    indexer = indexer_of(app)
    before = set(indexer.indexes(User))
    steps, found = [], []

    def meanwhile(count):
        if len(steps) in (1, 3):
            rename(app, "Nika" if len(steps) == 1 else "Nika 1", f"Nika {len(steps)}")
            make_person(app, f"Late {len(steps)}", f"late{len(steps)}@nox.example")
        steps.append(count)
        found.append("Anika" in names_found(app, "anika")[0] and app.extensions["elasticsearch"].is_ready)

    with app.app_context():
        assert User.reindex(meanwhile) == ""
    assert len(found) > 4 and all(found), "it is searched all the while"
    after = set(indexer.indexes(User))
    assert len(after) == 1 and not before & after, "the old index goes"
    settle(app)
    assert names_found(app, "late")[0] == ["Late 1", "Late 3"] and names_found(app, "nika 3")[0][0] == "Nika 3"
    assert is_right(app)


def test_reindex_can_be_stopped_and_run_again(app, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.BATCH_SIZE", 2)
    indexer = indexer_of(app)
    before = set(indexer.indexes(User))

    def stop(_count):
        raise KeyboardInterrupt

    with app.app_context(), pytest.raises(KeyboardInterrupt), indexer.lock(User):
        indexer.build(User, stop)
    assert set(indexer.indexes(User)) == before
    # And what somebody left who was killed, with no time to tidy up.
    with app.app_context():
        meta = {"place": outbox.register("users"), "layout": INDEX_VERSION}
        indexer.client.indices.create(index=f"{app.index}-1", mappings={**MAPPINGS, "_meta": meta})
    rename(app, "Nika", "Veronika")
    done = app.test_cli_runner().invoke(args=["search", "reindex"])
    assert done.exit_code == 0 and f"{len(NAMES) + 1} people indexed: Elasticsearch" in done.output, done.output
    assert len(indexer.indexes(User)) == 1 and not before & set(indexer.indexes(User))
    settle(app)
    assert names_found(app, "veronika")[0] == ["Veronika"] and is_right(app)


def test_reindex_writes_texts_anew(app):
    with app.app_context():
        begin_write(db.session)
        db.session.execute(update(User).where(User.username == "Alice").values(search_text="  somebody"))
        db.session.commit()
    assert app.test_cli_runner().invoke(args=["search", "reindex"]).exit_code == 0
    settle(app)
    assert names_found(app, "alice")[0] == ["Alice"] and names_found(app, "somebody")[0] == [] and is_right(app)


# The command proxy.


def test_check_finds_every_difference_and_mends_it(app):
    for number in range(4):
        rename(app, "Nikanor" if number == 0 else f"Nikanor {number - 1}", f"Nikanor {number}")
    rename(app, "Nikanor 3", "Nikanor")
    settle(app)
    indexer = indexer_of(app)
    [name] = indexer.indexes(User)
    with app.app_context():
        ids = dict(map(tuple, db.session.execute(select(User.username, User.id))))
    indexer.client.delete(index=name, id=str(ids["Nika"]))
    indexer.client.index(index=name, id=str(ids["Alice"]), document=make_document(ids["Alice"], 0, "  bob\t  p-4\t"))
    indexer.client.index(index=name, id="999999", document=make_document(999999, 0, "  ghost\t  ghost\t"))
    indexer.client.indices.refresh(index=name)
    said = check(app)
    assert f"1 missing: {ids['Nika']}" in said and f"1 different: {ids['Alice']}" in said
    assert "1 too many: 999999" in said and "3 differences" in said
    assert "3 differences, 0 left" in check(app, "--repair")
    assert is_right(app) and names_found(app)[0] == NIKAS


def test_status_and_sync_say_how_it_is(app, proxy):
    run = app.test_cli_runner().invoke
    count = len(NAMES) + 1
    said = run(args=["search", "status"]).output
    assert f"Documents: {count} of {count} rows" in said and "0 users wait" in said and proxy.url in said
    assert re.search(rf"Index: +{app.index}-\d+", said)
    rename(app, "Nika", "Veronika")
    assert "1 users wait" in run(args=["search", "status"]).output
    assert run(args=["search", "sync"]).output == "1 users sent.\n"
    assert names_found(app, "veronika")[0] == ["Veronika"] and app.extensions["elasticsearch"].is_ready
    proxy.fault = "refuse"
    for command in ("status", "sync", "check", "reindex"):
        done = run(args=["search", command])
        assert done.exit_code == 1 and "Error: Elasticsearch at" in done.output, (command, done.output)


def test_the_commands_say_so_where_there_is_no_elasticsearch(any_app):
    run = any_app.test_cli_runner().invoke
    assert "ELASTICSEARCH_URL is not set" in run(args=["search", "status"]).output
    for command in ("sync", "check", "forget"):
        done = run(args=["search", command])
        assert done.exit_code == 1 and "ELASTICSEARCH_URL is not set" in done.output
    make_person(any_app, "Alice")
    assert "1 people indexed" in run(args=["search", "reindex"]).output


def test_who_goes_back_to_the_database_forgets_the_index(app, make_app):
    back = make_app(uri=app.config["SQLALCHEMY_DATABASE_URI"])
    assert "still recorded" in back.test_cli_runner().invoke(args=["doctor"]).output
    assert app.test_cli_runner().invoke(args=["search", "forget"], input="n\n").exit_code == 1
    assert app.test_cli_runner().invoke(args=["search", "forget", "--yes"]).exit_code == 0
    assert indexer_of(app).indexes(User) == {}
    rename(app, "Nika", "Veronika")
    assert versions(app) == {}
    assert "still recorded" not in back.test_cli_runner().invoke(args=["doctor"]).output


# Secrets.


@pytest.mark.parametrize("fault", [PASS, "401", "500", "refuse", "hang", "noise", "html"])
@pytest.mark.parametrize("how", ["password", "key"])
def test_secrets_go_to_the_server_and_into_no_log(make_app, proxy, fault, how, caplog, capfd, monkeypatch):
    monkeypatch.setattr("noxchat.search.indexer.TIMEOUT_SECONDS", 0.5)
    caplog.set_level(logging.DEBUG)
    secret = "hush/hush s3cret"
    if how == "password":
        more = {"ELASTICSEARCH_URL": proxy.url.replace("://", "://elastic:hush%2Fhush%20s3cret@")}
    else:
        more = {"ELASTICSEARCH_URL": proxy.url, "ELASTICSEARCH_API_KEY": secret}
    proxy.fault = fault
    app = make_app(ELASTICSEARCH_PREFIX=prefix(), **more)
    app.viewer = make_person(app, "Viewer")
    with app.app_context():
        app.extensions["indexer"].step()
    app.extensions["elasticsearch"].close_circuit()
    names_found(app)
    output = "".join(
        app.test_cli_runner().invoke(args=arguments).output
        for arguments in (["doctor"], ["search", "status"], ["search", "sync"], ["search", "reindex"])
    )
    output += app.test_client().get("/readyz").text + caplog.text + "".join(capfd.readouterr())
    output += (app.config["LOG_DIR"] / "noxchat.log").read_text()
    assert "hush" not in output and "s3cret" not in output
    if fault not in ("refuse",):
        import base64

        proof = base64.b64encode(f"elastic:{secret}".encode()) if how == "password" else secret.encode()
        assert all(proof in request for request in proxy.requests) and proxy.requests


def test_a_certificate_authority_of_ones_own_is_believed_and_no_other(make_app, elasticsearch, tmp_path):
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
        stranger = elastic_app(make_app, url)
        with stranger.app_context():
            assert not stranger.extensions["indexer"].step()
            with pytest.raises(ELASTICSEARCH_ERRORS):
                stranger.extensions["elasticsearch"].client.cluster.health()
        assert proxy.requests == [], "nothing is said to who cannot be believed"
        app = elastic_app(make_app, url, ELASTICSEARCH_CA=certificate)
        settle(app)
        assert names_found(app)[0] == NIKAS and app.extensions["elasticsearch"].is_ready and proxy.requests
    finally:
        proxy.close()


# The whole: a server with threads, and changes all the while.


def test_a_server_killed_while_people_are_renamed_loses_nothing(tmp_path, new_database, make_app, elasticsearch):
    """`bin/bench search` does this fifty times."""
    uri, name = new_database("postgresql"), prefix()
    more = {"ELASTICSEARCH_URL": elasticsearch.url, "ELASTICSEARCH_PREFIX": name}
    app = elastic_app(make_app, elasticsearch.url, uri=uri, ELASTICSEARCH_PREFIX=name)
    app.extensions["indexer"].start = lambda: None
    app.index = f"{name}-users"
    for round_ in range(3):
        server = Server(tmp_path, uri, **more)
        done = threading.Event()

        def renaming(done=done, round_=round_):
            while not done.is_set():
                with app.app_context():
                    begin_write(db.session)
                    number = next(numbers)
                    db.session.execute(
                        update(User).where(User.username == "Alice").values(search_text=f"  a{round_}{number}\t")
                    )
                    db.session.commit()

        thread = threading.Thread(target=renaming)
        thread.start()
        time.sleep(0.7 + 0.3 * round_)
        server.process.kill()
        done.set()
        thread.join()
        server.process.wait()
    server = Server(tmp_path, uri, **more)
    try:
        wait_until(lambda: waiting(app).count == 0, 40)
        assert is_right(app)
    finally:
        server.stop()
