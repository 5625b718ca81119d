"""flask move-to: everything is copied to the other kind of database and compared; the source stays as it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select, text

from config import ROOT
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.hosting import transfer
from noxchat.models import Event, User
from tests.conftest import DATABASES, Browser, make_person, settings
from tests.hosting.test_backup import start_server, tables_of
from tests.test_cli import run

OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}


@pytest.fixture
def target(request, tmp_path):
    """Return a function that returns the URI of an empty database, of a kind."""

    def make(kind, **options):
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/target.db"
        postgres, name = request.getfixturevalue("postgres"), f"nox_target_{os.getpid()}"
        postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        more = " ".join(f"{key} {value}" for key, value in options.items())
        postgres.execute(f"CREATE DATABASE {name} {more}")
        return postgres.uri(name)

    return make


def stored(app):
    """Return all rows of all tables that are copied, as Python values."""
    with app.app_context():
        return {
            each.name: sorted(map(repr, db.session.execute(select(each)).all())) for each in transfer._copied_tables()
        }


@pytest.mark.parametrize("source", DATABASES)
def test_everything_is_copied_and_works_there(source, make_app, target):
    app = make_app(source)
    assert run(app, "demo", "--people", "12").exit_code == 0
    person = make_person(app, "Алёна", public_id="alena")
    browser = Browser(app, person)
    # The highest ids were given to rows that are deleted since.
    with app.app_context():
        begin_write(db.session)
        db.session.add_all([Event(user_id=person.id, kind="friendship") for _number in range(5)])
        db.session.flush()
        last_id = db.session.scalar(select(func.max(Event.id)))
        db.session.execute(text("DELETE FROM events"))
        db.session.commit()
    before, raw = stored(app), tables_of(app)
    uri = target(OTHER[source])
    done = run(app, "move-to", uri)
    assert done.exit_code == 0 and "compared all of them" in done.output, done.output
    assert tables_of(app) == raw
    moved = make_app(uri=uri)
    assert stored(moved) == before
    other = Browser(moved)
    other.set_cookie("SESSION", browser.cookie("SESSION"))
    assert other.get("/settings").status_code == 200
    assert 'data-user="alena"' in Browser(moved, person).get("/search?q=алена").text
    with moved.app_context():
        begin_write(db.session)
        db.session.add(Event(user_id=person.id, kind="friendship"))
        db.session.flush()
        assert db.session.scalar(select(func.max(Event.id))) == last_id + 1
        db.session.rollback()
        newest = db.session.scalar(select(func.max(User.id)))
    assert make_person(moved, "Newcomer").id == newest + 1
    assert "tables are current" in run(moved, "doctor").output
    assert run(moved, "backup").exit_code == 0
    again = run(app, "move-to", uri)
    assert again.exit_code == 1 and ("not empty" in again.output or "is there already" in again.output)


def test_what_cannot_be_a_target_is_refused(app, alice, target, make_app, tmp_path):
    for uri, words in (
        ("mysql://x/y", "SQLALCHEMY_DATABASE_URI"),
        (f"sqlite:///{tmp_path}/other.db", "SQLite already"),
        ("postgresql://nobody:s3cret@127.0.0.1:9/nothing", "the database says"),
        (target("postgresql", ENCODING="'LATIN1'", LOCALE="'C'", TEMPLATE="template0"), "UTF8"),
    ):
        refused = run(app, "move-to", uri)
        assert refused.exit_code == 1 and words in refused.output and "s3cret" not in refused.output, refused.output
    empty = make_app(uri=f"sqlite:///{tmp_path}/empty.db")
    assert "db upgrade" in run(empty, "move-to", target("postgresql")).output


def test_a_running_server_is_not_copied(app, alice, serve, target):
    server = serve("sqlite")
    refused = run(app, "move-to", target("postgresql"))
    assert refused.exit_code == 1 and "stop it first" in refused.output and server.get("/healthz").status == 200


def test_sequences_of_an_empty_table_begin_with_one(make_app, target):
    app = make_app("sqlite")
    uri = target("postgresql")
    assert run(app, "move-to", uri).exit_code == 0
    assert make_person(make_app(uri=uri), "Alice").id == 1


SLOW = """
import sys, time
from config import Config
from noxchat import create_app
from noxchat.hosting import transfer
app = create_app(Config(debug=False))
with app.app_context():
    def progress(text):
        print(text, flush=True)
        time.sleep(0.3)
    transfer.copy_to(sys.argv[1], progress)
"""


@pytest.mark.parametrize("source", DATABASES)
@pytest.mark.parametrize("word", ["creating tables", "copying users", "copying messages", "checking"])
def test_killed_copy_is_never_taken_for_whole_and_the_next_one_works(source, word, make_app, target, tmp_path):
    app = make_app(source)
    assert run(app, "demo", "--people", "5").exit_code == 0
    before, uri = stored(app), target(OTHER[source])
    environment = {**os.environ, **settings(tmp_path, app.config["SQLALCHEMY_DATABASE_URI"])}
    with app.app_context():
        db.session.remove()
        db.engine.dispose()
    uri_of_config = transfer.make_url(uri)
    driver = uri_of_config.set(drivername="postgresql+psycopg") if OTHER[source] == "postgresql" else uri_of_config
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, driver.render_as_string(hide_password=False)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert next(line for line in process.stdout if line.startswith(word))
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    if OTHER[source] == "sqlite":
        assert not Path(uri.removeprefix("sqlite:///")).exists()
    else:
        code, output = start_server(settings(tmp_path / "server", uri))
        assert code == 1 and "Copying to this database was interrupted" in output
        with psycopg.connect(uri) as connection:
            assert connection.execute("SELECT count(*) FROM incomplete_copy").fetchone() == (0,)
    done = run(app, "move-to", uri)
    assert done.exit_code == 0, done.output
    assert stored(make_app(uri=uri)) == before == stored(app)


def test_tables_of_a_newer_version_are_not_touched(make_app, tmp_path):
    app = make_app()
    with app.app_context():
        begin_write(db.session)
        db.session.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
        db.session.commit()
        uri = app.config["SQLALCHEMY_DATABASE_URI"]
    code, output = start_server(settings(tmp_path, uri))
    assert code == 1 and "newer version of NoxChat" in output
    code, output = start_server(settings(tmp_path, f"sqlite:///{tmp_path}/none.db", MIGRATE=0))
    assert code == 1 and "MIGRATE=0" in output and "db upgrade" in output
