"""Databases that cannot be written: pages for reading work, and whoever wants to write is told why they cannot."""

import time
from contextlib import closing, contextmanager
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import select, update

from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import Session, User
from tests.conftest import DATABASES, PASSWORD, Browser, make_person

PAGES = ("/", "/u/bobby", "/friends", "/search?q=bob", "/settings", "/settings/sessions")
SENTENCE = {"en": "NoxChat can only be read just now", "ru": "Сейчас NoxChat можно только читать"}


def uri(app):
    return app.config["SQLALCHEMY_DATABASE_URI"]


@contextmanager
def write_lock(app):
    """Hold what a request of Alice needs to write: SQLite's write lock, or the rows of users."""
    with app.app_context():
        engine = db.engine
    with engine.connect() as connection:
        connection = connection.execution_options(begin="IMMEDIATE")
        connection.execute(select(User.id).with_for_update())
        yield
        connection.rollback()


def make_presence_due(app):
    with app.app_context():
        db.session.execute(update(Session).values(last_used_at=now() - timedelta(hours=1)))
        db.session.commit()


@pytest.fixture
def people(any_app):
    """Alice's browser, on an application in which there is Bob, too; her presence is to be recorded."""
    alice, _bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bobby", public_id="bobby")
    browser = Browser(any_app, alice)
    browser.get("/")
    make_presence_due(any_app)
    return any_app, browser


def test_pages_do_not_wait_for_the_write_lock(people):
    app, browser = people
    with write_lock(app):
        for path in PAGES:
            for htmx in (False, True):
                began = time.monotonic()
                assert browser.get(path, htmx=htmx).status_code == 200, path
                assert time.monotonic() - began < 2, path
    assert browser.get("/").status_code == 200
    with app.app_context():
        seen = db.session.scalar(select(User.last_seen_at).where(User.username == "Alice"))
        assert seen > now() - timedelta(minutes=1)  # recorded as soon as it could be


def test_remember_cookie_logs_in_while_the_write_lock_is_held(any_app):
    make_person(any_app, "Alice", public_id="alice")
    browser = Browser(any_app)
    browser.log_in("alice", remember_me="y")
    browser.client.delete_cookie(browser.cookie_name("SESSION"))
    old = browser.cookie("REMEMBER")
    with write_lock(any_app):
        assert browser.get("/settings").status_code == 200
        assert browser.get("/settings").status_code == 200
    assert browser.cookie("REMEMBER") == old
    browser.client.delete_cookie(browser.cookie_name("SESSION"))
    assert browser.get("/settings").status_code == 200
    assert browser.cookie("REMEMBER") != old


@pytest.fixture(params=[*DATABASES, "no privileges"])
def read_only(request, make_app):
    """Browsers of Alice and of a visitor, on an application whose database can only be read."""
    kind = "sqlite" if request.param == "sqlite" else "postgresql"
    app = make_app(kind)
    alice = make_person(app, "Alice", public_id="alice")
    make_person(app, "Bobby", public_id="bobby")
    browser = Browser(app, alice)
    browser.get("/")
    make_presence_due(app)
    if kind == "sqlite":
        read_only_uri = uri(app).replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    else:
        url = uri(app).replace("+psycopg", "")
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            name = connection.info.dbname
            if request.param == "postgresql":
                connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            else:
                role = f"reader_{name}"
                connection.execute(f"CREATE ROLE {role} LOGIN")
                connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
                request.addfinalizer(lambda: drop_role(url, role))
        read_only_uri = uri(app) if request.param == "postgresql" else uri(app).replace("postgres@", f"{role}@")
        assert request.param == "postgresql" or read_only_uri != uri(app)
    with app.app_context():
        db.engine.dispose()
    reading = make_app(uri=read_only_uri)
    browser.app, browser.client.application = reading, reading
    return reading, browser


def drop_role(url, role):
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_read_only_database_answers_reading_pages(read_only):
    _app, browser = read_only
    for path in PAGES:
        for htmx in (False, True):
            assert browser.get(path, htmx=htmx).status_code == 200, path
    assert Browser(browser.app).get("/auth/login").status_code == 200


@pytest.mark.parametrize("language", SENTENCE)
def test_read_only_database_refuses_writing_in_a_sentence(read_only, language):
    _app, browser = read_only
    headers = {"Accept-Language": language}
    for htmx in (False, True):
        answer = browser.post("/u/bobby/request", htmx=htmx, headers=headers)
        assert answer.status_code == 503 and answer.headers["Retry-After"] and SENTENCE[language] in answer.text
        anonymous = Browser(browser.app)
        fields = {"identifier": "alice", "password": PASSWORD}
        answer = anonymous.post("/auth/login", fields, htmx=htmx, headers=headers)
        assert answer.status_code == 503 and SENTENCE[language] in answer.text


def test_readyz_and_doctor_say_that_the_database_can_only_be_read(read_only):
    app, browser = read_only
    ready = browser.get("/readyz")
    assert ready.status_code == 200 and "can only be read" in ready.json["writing"]
    result = app.test_cli_runner().invoke(args=["doctor"])
    assert result.exit_code == 1 and "WRONG  Writing: can only be read" in result.output
