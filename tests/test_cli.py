"""The `flask` command: demo, users, doctor; and whatever doctor can find, caused."""

import re

import pytest
from sqlalchemy import func, select

from noxchat import health
from noxchat.extensions import db
from noxchat.models import User, friend_requests, friends
from tests.conftest import PASSWORD, Browser


def run(app, *arguments, **kwargs):
    return app.test_cli_runner().invoke(args=list(arguments), **kwargs)


def test_demo_fills_an_empty_database_and_only_that(any_app):
    done = run(any_app, "demo")
    assert done.exit_code == 0, done.output
    identifier, password = re.search(r"Log in as (\S+) with the password (\S+)", done.output).groups()
    guest = Browser(any_app)
    assert guest.sign_in(identifier, password).status_code == 303
    assert guest.get("/").text.count('data-friendship="friends"') == 12
    assert guest.get("/").text.count('data-friendship="incoming"') == 3
    with any_app.app_context():
        assert db.session.scalar(select(func.count()).select_from(User)) == 60
        assert db.session.scalar(select(func.count()).select_from(friends)) > 200
        assert db.session.scalar(select(func.count()).select_from(friend_requests)) > 20
    assert len(list(any_app.config["AVATAR_DIR"].rglob("*.webp"))) > 40
    again = run(any_app, "demo")
    assert again.exit_code == 1 and "empty database" in again.output


def test_users_are_made_listed_and_deleted(app):
    made = run(app, "users", "create", "Mila", "mila@nox.example")
    password = re.search(r"Password: (\S+)", made.output)[1]
    assert Browser(app).sign_in("mila@nox.example", password).status_code == 303
    assert run(app, "users", "create", "Nika", "nika@nox.example", "--password", PASSWORD).exit_code == 0
    listed = run(app, "users", "list").output
    assert "mila@nox.example" in listed and "2 accounts" in listed
    assert run(app, "users", "delete", "mila@nox.example", input="n\n").exit_code == 1
    assert run(app, "users", "delete", "mila@nox.example", "--yes").exit_code == 0
    assert "1 accounts" in run(app, "users", "list").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "x", "x@nox.example"),
        ("create", "Nika", "no address"),
        ("create", "Alice", "new@nox.example"),
        ("create", "Nika", "alice@nox.example"),
        ("create", "Nika", "nika@nox.example", "--password", "short"),
        ("delete", "nobody", "--yes"),
        ("reset-link", "nobody"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(app, alice, arguments):
    done = run(app, "users", *arguments)
    assert done.exit_code == 1 and done.output.startswith("Error: ") and "Traceback" not in done.output


@pytest.mark.parametrize("who", ["alice@nox.example", "alice", "@ALICE"])
def test_a_reset_link_works_once(app, alice, who):
    link = re.search(r"http://127.0.0.1:8000(/\S+)", run(app, "users", "reset-link", who).output)[1]
    fields = {"password": "a new lamp at night", "password2": "a new lamp at night"}
    assert Browser(app).post(link, fields).status_code == 303
    assert Browser(app).get(link).status_code == 400


def doctor(app):
    done = run(app, "doctor")
    return (
        done.exit_code,
        {line.partition(":")[0][7:]: line[:5].strip() for line in done.output.splitlines() if ":" in line},
        done.output,
    )


def test_doctor_finds_nothing_wrong_where_nothing_is(any_app):
    code, found, output = doctor(any_app)
    assert code == 0 and "WRONG" not in found.values(), output
    assert "No problems." in output


FAULTS = {
    "Database": {"SQLALCHEMY_DATABASE_URI": "postgresql://nobody@127.0.0.1:9/nothing"},
    "Mail server": {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": 9},
    "Limits": {"WORKERS": 3},
    "Base URL": {"BASE_URL": "http://nox.example"},
}


@pytest.mark.parametrize("name", FAULTS)
def test_doctor_finds_what_is_configured_wrong(make_app, name):
    fault = dict(FAULTS[name])
    app = make_app(uri=fault.pop("SQLALCHEMY_DATABASE_URI", None), **fault)
    code, found, output = doctor(app)
    assert code == 1 and found[name] == "WRONG", output


def test_doctor_finds_a_limits_store_that_is_down(app):
    app.config["RATELIMIT_STORAGE_URI"] = "redis://127.0.0.1:9"
    assert doctor(app)[1]["Limits"] == "WRONG"


def test_doctor_finds_a_weak_key_and_no_link_is_made_with_it(app, alice):
    app.config["warnings"] = ["SECRET_KEY is too weak: write a better one."]
    assert doctor(app)[1]["Secret key"] == "WRONG"
    done = run(app, "users", "reset-link", "alice")
    assert done.exit_code == 1 and "SECRET_KEY" in done.output


def test_doctor_finds_old_tables(make_app, tmp_path):
    code, found, output = doctor(make_app(uri=f"sqlite:///{tmp_path}/old.db"))
    assert code == 1 and found["Database"] == "WRONG" and "db upgrade" in output


def test_doctor_finds_letters_that_pile_up(app, alice):
    from datetime import timedelta

    from noxchat.database import now
    from noxchat.models import QueuedEmail

    with app.app_context():
        db.session.add(
            QueuedEmail(user_id=alice.id, kind="password_reset", language="en", created_at=now() - timedelta(hours=1))
        )
        db.session.commit()
    assert doctor(app)[1]["E-mail queue"] == "WRONG"


def test_doctor_finds_missing_files(app, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "static_folder", str(tmp_path))
    assert doctor(app)[1]["Front-end files"] == "WRONG"
    monkeypatch.setattr(app, "root_path", str(tmp_path / "noxchat"))
    with app.app_context():
        assert health.check_translations().ok is False


def test_doctor_finds_folders_that_are_not_there(app, tmp_path):
    app.config["DATA_DIR"] = tmp_path / "gone"
    app.config["LOG_DIR"] = tmp_path / "gone too"
    found = doctor(app)[1]
    assert (found["Data folder"], found["Log folder"]) == ("WRONG", "WRONG")


def test_doctor_finds_a_database_that_cannot_tell_letters(make_app, postgres):
    postgres.execute("DROP DATABASE IF EXISTS nox_c")
    postgres.execute("CREATE DATABASE nox_c TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    app = make_app(uri=postgres.uri("nox_c"))
    with app.app_context():
        import flask_migrate

        flask_migrate.upgrade()
    code, found, output = doctor(app)
    assert found["Database locale"] == "WRONG" and "C.UTF-8" in output


def test_the_shell_has_its_names(app):
    with app.app_context():
        assert {"db", "User", "Profile", "friends", "friend_requests"} <= set(app.make_shell_context())
