"""The files of deploy/, by their own validators and by what they start; bin/upgrade; the commands of the documents."""

import gzip
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import flask_migrate
import pytest
import yaml
from sqlalchemy import text

from config import ROOT, Config
from noxchat import schema
from noxchat.extensions import db
from tests.conftest import DATABASES, Browser, Server, settings, skip
from tests.hosting.conftest import nginx_config
from tests.test_cli import run_doctor

DEPLOY = ROOT / "deploy"


def program(name, package):
    """Return the path of a program; skip where it is not installed."""
    return shutil.which(name) or skip(f"{name} is not installed: apt-get install {package}")


def test_systemd_units(tmp_path):
    analyze = program("systemd-analyze", "systemd")
    for unit in DEPLOY.glob("noxchat*.*"):
        if unit.suffix not in {".service", ".timer"}:
            continue
        # The programs are where systemd looks for them only on a real machine.
        text = re.sub(r"/srv/noxchat(/\S+)", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text.replace("/srv/noxchat", "/"))
    done = subprocess.run(
        [analyze, "verify", *sorted(map(str, tmp_path.iterdir()))], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "noxchat" in line]
    assert done.returncode == 0 and complaints == [], done.stderr
    assert len(list(tmp_path.iterdir())) == 3


def test_caddyfile():
    caddy = program("caddy", "caddy")
    done = subprocess.run(
        [caddy, "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile"],
        env={**os.environ, "HOME": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Valid configuration" in done.stdout + done.stderr, done.stderr


def test_fail2ban_filter_matches_refusals_and_nothing_else(app, tmp_path):
    regex = program("fail2ban-regex", "fail2ban")
    stranger, friend = Browser(app, address="203.0.113.5"), Browser(app, address="203.0.113.6")
    stranger.log_in("nobody", "wrong password 1")
    stranger.get("/nowhere")
    stranger.post("/auth/login", {"identifier": "x"}, token=False)
    stranger.get("/auth/login", headers={"Host": "evil.example"})
    friend.get("/auth/login")
    friend.get("/healthz")
    friend.get("/")
    log = app.config["LOG_DIR"] / "noxchat.log"
    done = subprocess.run(
        [regex, "--print-all-matched", log, DEPLOY / "fail2ban/filter.d/noxchat.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    matched = re.search(r"(\d+) matched", done.stdout)[1]
    lines = log.read_text().splitlines()
    expected = [line for line in lines if line.endswith("203.0.113.5") and " 400 " not in line]
    assert int(matched) == len(expected) == 4, done.stdout
    assert "203.0.113.6" not in "".join(line for line in lines if " from " in line)
    assert (DEPLOY / "fail2ban/jail.d/noxchat.conf").read_text().count("filter = noxchat") == 1


def test_compose_file_names_settings_that_exist():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert {"noxchat", "caddy", "postgres", "redis", "elasticsearch"} == set(services)
    environment = services["noxchat"]["environment"]
    assert set(environment) <= Config({"SECRET_KEY": "x"}, debug=True).KNOWN_SETTINGS
    values = {name: re.sub(r"\$\{[^}]*\}", "a_sixteen_letter_word", str(value)) for name, value in environment.items()}
    config = Config({**values, "BASE_URL": "https://nox.example"}, debug=True)
    assert config.WORKERS == 2 and config.RATELIMIT_STORAGE_URI == "redis://redis:6379"
    assert services["elasticsearch"]["profiles"] == ["search"]


def blocks(name, heading):
    """Return the lines of the indented blocks below a heading of a document."""
    section = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", (ROOT / "docs" / name).read_text(), re.M | re.S
    )[1]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


def test_recipe_for_postgresql(postgres, tmp_path, make_app):
    """Literally, as the owner of the server, and then as the role of NoxChat."""
    for statement in ("DROP DATABASE IF EXISTS noxchat", "DROP ROLE IF EXISTS noxchat"):
        postgres.execute(statement)
    environment = {
        **os.environ,
        "PGHOST": str(postgres.folder),
        "PGUSER": "postgres",
        "PATH": f"{postgres.bin}:{os.environ['PATH']}",
    }
    lines = [line for line in blocks("running.md", "PostgreSQL") if line.startswith(("createuser", "createdb", "psql"))]
    assert [line.split()[0] for line in lines] == ["createuser", "createdb", "psql"]
    for line in lines:
        done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
    app = make_app(uri=f"postgresql://noxchat@/noxchat?host={postgres.folder}")
    code, states, output = run_doctor(app)
    assert states["Database rights"] == "ok" and states["Database"] == "WRONG", output
    with app.app_context():
        flask_migrate.upgrade()
    code, states, output = run_doctor(app)
    assert code == 0 and (states["Database"], states["Search"], states["Database locale"]) == ("ok", "ok", "ok"), output
    with app.app_context():
        db.engine.dispose()


def test_documents_name_only_commands_and_files_that_exist(app):
    for name in ("running.md", "upgrading.md", "several-machines.md"):
        text = (ROOT / "docs" / name).read_text()
        for path in re.findall(r"deploy/[\w./-]*\w", text):
            assert (ROOT / path).exists(), (name, path)
        for command in re.findall(r"flask --app main ([\w-]+)", text):
            assert command == "db" or command in app.cli.commands, (name, command)
        for setting in re.findall(r"^    ([A-Z_]{4,})=", text, re.M):
            assert setting in app.config["KNOWN_SETTINGS"], (name, setting)


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=Test", "-c", "user.email=t@nox.example", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def two_versions(tmp_path):
    """An upstream repository with a newer version, and a checkout of the older one with its packages installed."""
    upstream, checkout = tmp_path / "upstream", tmp_path / "checkout"
    upstream.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (upstream / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, upstream / name)
    git(upstream, "init", "--quiet")
    git(upstream, "add", "--all")
    git(upstream, "commit", "--quiet", "--message", "Old")
    git(tmp_path, "clone", "--quiet", str(upstream), str(checkout))
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    (checkout / "vendor").symlink_to(ROOT / "vendor")
    (checkout / "static/vendor").symlink_to(ROOT / "static/vendor")
    exclude = checkout / ".git/info/exclude"
    exclude.write_text(".venv\nvendor\nstatic/vendor\n")
    template = upstream / "templates/auth/login.html"
    template.write_text(template.read_text() + "{% if %} this is no template of the old version")
    for part in ("templates/errors", "partials/errors"):
        shutil.rmtree(upstream / part)
    for source in (upstream / "migrations/versions").glob("*.py"):
        source.write_text("this is no Python\n")
    (upstream / "static/css/base.css").write_text("/* new */")
    git(upstream, "commit", "--quiet", "--all", "--message", "New")
    return upstream, checkout


def upgrade(checkout, environment, *arguments):
    done = subprocess.run(
        [checkout / "bin/upgrade", *arguments],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_upgrade_backs_up_and_does_not_disturb_the_running_server(two_versions, tmp_path, new_database):
    """The new version is such that anything read from it would break what runs."""
    _upstream, checkout = two_versions

    server = Server(tmp_path, new_database("sqlite"), cwd=checkout)
    try:
        environment = server.environment
        css = re.search(r"/static/css/base\.css\?v=\w+", server.get("/auth/register").text)[0]
        old = server.get(css).text
        code, output = upgrade(checkout, environment)
        assert code == 0 and "Backed up 0 people" in output and "Restart NoxChat" in output, output
        [backup] = Path(environment["DATA_DIR"]).glob("backups/*.tar.gz")
        assert backup.stat().st_size > 1000
        assert (checkout / "static/css/base.css").read_text() == "/* new */"
        for path, status in (
            ("/auth/login", 200),
            ("/nowhere", 404),
            ("/readyz", 200),
            ("/auth/reset/x", 400),
            (css, 200),
        ):
            assert server.get(path).status == status, path
        assert server.get(css).text == old
        assert upgrade(checkout, environment)[1].count("This is the newest version already.") == 1
    finally:
        server.stop()


def test_upgrade_to_a_version_and_from_there_to_the_newest(two_versions, tmp_path, new_database):
    upstream, checkout = two_versions
    environment = {
        "DATA_DIR": str(tmp_path / "data"),
        "LOG_DIR": str(tmp_path / "logs"),
        "SQLALCHEMY_DATABASE_URI": new_database("sqlite"),
    }
    git(upstream, "reset", "--quiet", "--hard", "HEAD~1")  # whose commands work, too
    git(upstream, "tag", "v9.8")
    (upstream / "README.md").write_text("newer")
    git(upstream, "commit", "--quiet", "--all", "--message", "Newer")
    code, output = upgrade(checkout, environment, "v9.8")
    assert code == 0 and git(checkout, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD", output
    time.sleep(1)  # for another name of the backup
    code, output = upgrade(checkout, environment)
    assert code == 0 and (checkout / "README.md").read_text() == "newer", output


def test_upgrade_refuses_to_lose_changes_and_goes_back_when_it_fails(two_versions, tmp_path, new_database):
    upstream, checkout = two_versions
    environment = {
        "DATA_DIR": str(tmp_path / "data"),
        "LOG_DIR": str(tmp_path / "logs"),
        "SQLALCHEMY_DATABASE_URI": new_database("sqlite"),
    }
    before = git(checkout, "rev-parse", "HEAD")
    (checkout / "README.md").write_text("mine")
    code, output = upgrade(checkout, environment)
    assert code == 1 and "There are changes in this checkout" in output
    git(checkout, "checkout", "--quiet", "README.md")
    (upstream / "bin/setup").write_text("import sys; sys.exit('the registry is away')\n")
    git(upstream, "commit", "--quiet", "--all", "--message", "Needs what cannot be had")
    code, output = upgrade(checkout, environment)
    assert code == 1 and "The old one is here again" in output and git(checkout, "rev-parse", "HEAD") == before


KILLED = """
import os, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from config import Config
from noxchat import create_app, schema
from noxchat.extensions import db
left = int(sys.argv[1])
app = create_app(Config(debug=False))
with app.app_context():
    @event.listens_for(Engine, "before_cursor_execute")
    @event.listens_for(Engine, "commit")
    def count(*_arguments):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
    schema.upgrade(db.engine)
"""


@pytest.mark.parametrize("database", DATABASES)
def test_migration_that_is_killed_anywhere_is_finished_by_the_next(database, make_app, tmp_path, postgres):
    if database == "sqlite":
        uri, revision = f"sqlite:///{tmp_path}/old.db", None
        with sqlite3.connect(tmp_path / "old.db") as connection:
            connection.executescript(gzip.decompress((ROOT / "tests/releases/1.0.sql.gz").read_bytes()).decode())
    else:
        name, revision = f"nox_killed_{os.getpid()}", "8fd9e1265c17"
        postgres.execute(f"CREATE DATABASE {name}")
        uri = postgres.uri(name)
    app = make_app(uri=uri)
    with app.app_context():
        if revision:
            flask_migrate.upgrade(revision=revision)
        db.engine.dispose()
    people = 9 if database == "sqlite" else 0
    environment = {**os.environ, **settings(tmp_path, uri)}
    codes = []
    for left in (3, 40, 90, 150, 210, 260, 10_000):
        command = [sys.executable, "-c", KILLED, str(left)]
        codes.append(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False).returncode)
        with app.app_context():
            assert db.session.scalar(text("SELECT count(*) FROM users")) == people
            db.session.remove()
            db.engine.dispose()
    assert codes.count(9) >= 2 and codes[-1] == 0, codes
    with app.app_context():
        assert schema.is_current()
        db.session.remove()


def test_start_needs_no_registry_while_the_installed_files_fit(two_versions):
    """Also when the code of the setup has changed."""
    _upstream, checkout = two_versions
    setup = checkout / "bin/_setup.py"
    setup.write_text(setup.read_text() + "\n# changed\n")
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "PIP_INDEX_URL": nowhere, "npm_config_registry": nowhere, "PIP_RETRIES": "0"}
    began = time.monotonic()
    done = subprocess.run([checkout / "bin/setup"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "install" not in done.stderr and time.monotonic() - began < 30, done.stderr


def test_nginx_configuration_is_valid_as_it_is(nginx):
    text = nginx_config(nginx.folder, nginx.certificate, nginx.ports, [8000])
    (nginx.folder / "nginx.conf").write_text(text)
    done = subprocess.run(
        ["nginx", "-t", "-c", str(nginx.folder / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "[warn]" not in done.stderr, done.stderr
