"""The subcommands of `flask`: demo, users and doctor, with each problem that doctor reports."""

import re
from datetime import timedelta

import flask_migrate
import pytest
from sqlalchemy import func, select

from noxchat import doctor
from noxchat.database import now
from noxchat.extensions import db
from noxchat.models import QueuedEmail, User, friend_requests, friends
from tests.conftest import PASSWORD, Browser


def run(app, *arguments, **kwargs):
    return app.test_cli_runner().invoke(args=list(arguments), **kwargs)


def test_demo_fills_only_an_empty_database(any_app):
    result = run(any_app, "demo")
    assert result.exit_code == 0, result.output
    identifier, password = re.search(r"Log in as (\S+) with the password (\S+)", result.output).groups()
    anonymous = Browser(any_app)
    assert anonymous.log_in(identifier, password).status_code == 303
    assert anonymous.get("/").text.count('data-friendship="friends"') == 12
    assert anonymous.get("/").text.count('data-friendship="incoming"') == 3
    with any_app.app_context():
        assert db.session.scalar(select(func.count()).select_from(User)) == 60
        assert db.session.scalar(select(func.count()).select_from(friends)) > 200
        assert db.session.scalar(select(func.count()).select_from(friend_requests)) > 20
    assert len(list(any_app.config["AVATAR_DIR"].rglob("*.webp"))) > 40
    second = run(any_app, "demo")
    assert second.exit_code == 1 and "empty database" in second.output


def test_chat_stats_count_what_is_stored(any_app):
    empty = run(any_app, "chat", "stats")
    assert empty.exit_code == 0 and re.findall(r"[\d,]+$", empty.output, re.MULTILINE)[:4] == ["0"] * 4
    run(any_app, "demo")
    numbers = dict(re.findall(r"^(\D+?)\s{2,}([\d,]+)$", run(any_app, "chat", "stats").output, re.MULTILINE))
    assert (numbers["direct conversations"], numbers["groups"], numbers["members of groups"]) == ("11", "1", "5")
    assert int(numbers["messages"]) > 400 and numbers["deleted messages"] == "0"


def test_users_can_be_created_listed_and_deleted(app):
    created = run(app, "users", "create", "Mila", "mila@nox.example")
    password = re.search(r"Password: (\S+)", created.output)[1]
    assert Browser(app).log_in("mila@nox.example", password).status_code == 303
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
def test_invalid_arguments_print_an_error_without_traceback(app, alice, arguments):
    result = run(app, "users", *arguments)
    assert result.exit_code == 1 and result.output.startswith("Error: ") and "Traceback" not in result.output


@pytest.mark.parametrize("identifier", ["alice@nox.example", "alice", "@ALICE"])
def test_reset_link_works_once(app, alice, identifier):
    link = re.search(r"http://127.0.0.1:8000(/\S+)", run(app, "users", "reset-link", identifier).output)[1]
    fields = {"password": "a new lamp at night", "password2": "a new lamp at night"}
    assert Browser(app).post(link, fields).status_code == 303
    assert Browser(app).get(link).status_code == 400


def run_doctor(app):
    """Return the exit code, the state of each check by its label, and the output."""
    result = run(app, "doctor")
    return (
        result.exit_code,
        {line.partition(":")[0][7:]: line[:5].strip() for line in result.output.splitlines() if ":" in line},
        result.output,
    )


def test_doctor_reports_no_problems(any_app):
    code, states, output = run_doctor(any_app)
    assert code == 0 and "WRONG" not in states.values(), output
    assert "No problems." in output


MISCONFIGURATIONS = {
    "Database": {"SQLALCHEMY_DATABASE_URI": "postgresql://nobody@127.0.0.1:9/nothing"},
    "Mail server": {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": 9},
    "Limits": {"WORKERS": 3, "SQLALCHEMY_DATABASE_URI": "postgresql://nobody@127.0.0.1:9/nothing"},
    "Base URL": {"BASE_URL": "http://nox.example"},
}


@pytest.mark.parametrize("name", MISCONFIGURATIONS)
def test_doctor_reports_misconfiguration(make_app, name):
    variables = dict(MISCONFIGURATIONS[name])
    app = make_app(uri=variables.pop("SQLALCHEMY_DATABASE_URI", None), **variables)
    code, states, output = run_doctor(app)
    assert code == 1 and states[name] == "WRONG", output


def test_doctor_reports_unreachable_rate_limit_storage(make_app):
    code, states, output = run_doctor(make_app(RATELIMIT_STORAGE_URI="redis://127.0.0.1:9"))
    assert code == 1 and states["Limits"] == "WRONG" and "counts by itself meanwhile" in output


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_doctor_reports_missing_password_list(app, tmp_path, content):
    app.config["PASSWORD_LIST"] = tmp_path / "passwords.txt"
    if content is not None:
        app.config["PASSWORD_LIST"].write_bytes(content)
    code, states, output = run_doctor(app)
    assert code == 1 and states["Password list"] == "WRONG" and "run bin/setup" in output


def test_doctor_reports_weak_secret_key_and_reset_link_refuses_it(app, alice):
    app.config["warnings"] = ["SECRET_KEY is too weak: write a better one."]
    assert run_doctor(app)[1]["Secret key"] == "WRONG"
    result = run(app, "users", "reset-link", "alice")
    assert result.exit_code == 1 and "SECRET_KEY" in result.output


def test_doctor_reports_missing_migrations(make_app, tmp_path):
    code, states, output = run_doctor(make_app(uri=f"sqlite:///{tmp_path}/old.db"))
    assert code == 1 and states["Database"] == "WRONG" and "db upgrade" in output


def test_doctor_reports_delayed_email_queue(app, alice):
    with app.app_context():
        db.session.add(
            QueuedEmail(user_id=alice.id, kind="password_reset", language="en", created_at=now() - timedelta(hours=1))
        )
        db.session.commit()
    assert run_doctor(app)[1]["E-mail queue"] == "WRONG"


def test_doctor_reports_missing_files(app, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "static_folder", str(tmp_path))
    assert run_doctor(app)[1]["Front-end files"] == "WRONG"
    monkeypatch.setattr(app, "root_path", str(tmp_path / "noxchat"))
    with app.app_context():
        assert doctor.check_translations().ok is False


def test_doctor_reports_missing_folders(app, tmp_path):
    app.config["DATA_DIR"] = tmp_path / "gone"
    app.config["LOG_DIR"] = tmp_path / "gone too"
    states = run_doctor(app)[1]
    assert (states["Data folder"], states["Log folder"]) == ("WRONG", "WRONG")


def test_doctor_reports_unsuitable_database_locale(make_app, postgres):
    postgres.execute("DROP DATABASE IF EXISTS nox_c")
    postgres.execute("CREATE DATABASE nox_c TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    app = make_app(uri=postgres.uri("nox_c"))
    with app.app_context():
        flask_migrate.upgrade()
    code, states, output = run_doctor(app)
    assert states["Database locale"] == "WRONG" and "C.UTF-8" in output


def test_shell_context_contains_db_and_models(app):
    with app.app_context():
        assert {"db", "User", "Profile", "friends", "friend_requests"} <= set(app.make_shell_context())
