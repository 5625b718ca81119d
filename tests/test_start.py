"""Starting the real server: whatever cannot work ends in a sentence, before anything is changed."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

import config as config_module
from config import ROOT, Config, ConfigError, load_env
from noxchat import changelog
from noxchat.extensions import db
from noxchat.models import User
from noxchat.web.preferences import LANGUAGES
from tests.conftest import DATABASES, Browser, Server, befriend, free_port, make_person, settings

KEY = {"SECRET_KEY": "0123456789abcdef" * 4}


def start(folder, uri, **more):
    """Start a server that is expected to end at once; return its exit code and output."""
    environment = settings(folder, uri, **{"DEMO": 0, "PORT": free_port(), **more})
    done = subprocess.run(
        [sys.executable, "-m", "noxchat.web.server"],
        env={**environment, "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def is_refused(folder, uri, words, **more):
    code, output = start(folder, uri, **more)
    return code == 1 and output.startswith("NoxChat cannot start. ") and words in output and output.count("\n") == 1


def test_address_that_cannot_be_used_is_a_sentence_before_anything_is_migrated(tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert is_refused(tmp_path, uri, "is taken by another process", PORT=taken.getsockname()[1])
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        assert is_refused(tmp_path, uri, "is taken by another process", PORT=taken.getsockname()[1], HOST="::1")
    for host in ("0", "10.9.9.9", "2001:db8::9", "nowhere.invalid", "256.1.1.1", "127.1"):
        assert is_refused(tmp_path, uri, f"HOST is '{host}'", HOST=host), host
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("database", DATABASES)
def test_two_first_starts_at_once_migrate_and_fill_once(database, request, tmp_path):
    if database == "sqlite":
        uri = f"sqlite:///{tmp_path}/new.db"
    else:
        postgres = request.getfixturevalue("postgres")
        postgres.execute("DROP DATABASE IF EXISTS nox_start WITH (FORCE)")
        postgres.execute("CREATE DATABASE nox_start")
        uri = postgres.uri("nox_start")
    servers = [Server(tmp_path, uri, wait=False, DEMO=1, SECRET_KEY="") for _number in range(2)]
    try:
        for server in servers:
            server.wait()
            assert server.get("/readyz").status == 200 and server.get("/auth/login").status == 200
            assert "Traceback" not in server.output_text()
            assert "Demo login: mila@demo.example" in server.output_text()
    finally:
        for server in servers:
            server.stop()


def test_database_that_cannot_store_every_letter_is_refused(postgres, tmp_path):
    options = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    for name, more in (("nox_latin1", options), ("nox_ascii", options.replace("LATIN1", "SQL_ASCII"))):
        postgres.execute(f"DROP DATABASE IF EXISTS {name}")
        postgres.execute(f"CREATE DATABASE {name} {more}")
        assert is_refused(tmp_path, postgres.uri(name), "create it with ENCODING 'UTF8'"), name


def test_database_that_does_not_answer_is_a_sentence(tmp_path):
    for uri in (f"postgresql://me:s3cret@127.0.0.1:{free_port()}/nox", f"sqlite:///{tmp_path}/no/folder/nox.db"):
        code, output = start(tmp_path, uri)
        assert code == 1 and output.startswith("NoxChat cannot start. SQLALCHEMY_DATABASE_URI"), output
        assert "Traceback" not in output and "s3cret" not in output


def test_start_with_a_database_that_can_only_be_read_says_so(tmp_path, new_database):
    uri = new_database("sqlite").replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    server = Server(tmp_path, uri)
    try:
        assert server.get("/auth/login").status == 200
        assert "Warning: the database: can only be read" in server.output_text()
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["da?ta", "da#ta", "100% %(x)s", "да та", "a&b=c;d", "it's"])
def test_data_folder_may_have_any_name(make_app, tmp_path, name):
    folder = tmp_path / name
    made = Config({**KEY, "DATA_DIR": str(folder)})
    app = make_app(uri=made.SQLALCHEMY_DATABASE_URI, DATA_DIR=folder, LOG_DIR=folder / "logs")
    with app.app_context():
        import flask_migrate

        flask_migrate.upgrade()
        db.session.remove()
    make_person(app, "Alice", public_id="alice")
    assert (folder / "noxchat.db").is_file()
    assert Browser(app).log_in("alice").status_code == 303
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {name, "data", "logs"}


@pytest.mark.parametrize("name", ["100% nox", "%(here)s", "a%%b"])
def test_install_path_may_contain_percent_signs(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    for part in (
        "noxchat",
        "templates",
        "partials",
        "static",
        "migrations",
        "translations",
        "config.py",
        "CHANGELOG.md",
    ):
        (place / part).symlink_to(ROOT / part)
    # A link to the package would lead back to this checkout.
    (place / "noxchat").unlink()
    subprocess.run(["cp", "-r", ROOT / "noxchat", place / "noxchat"], check=True)
    (place / "main.py").write_text((ROOT / "main.py").read_text())
    (place / "config.py").unlink()
    (place / "config.py").write_text((ROOT / "config.py").read_text())
    environment = {**settings(tmp_path, f"sqlite:///{tmp_path}/percent.db"), "PATH": "/usr/bin:/bin"}
    for command in (["db", "upgrade"], ["db", "current"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "main", *command],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr and (done.returncode == 0 or command == ["doctor"]), done.stderr
    assert "tables are current" in done.stdout


@pytest.mark.parametrize("content", ["DEMO=0\n".encode("utf-16"), "BASE_URL=http://ночь.рф\n".encode("cp1251")])
def test_env_file_in_another_encoding_is_a_sentence(tmp_path, monkeypatch, content):
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_env()


def test_env_file_with_byte_order_mark_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    monkeypatch.delenv("NOXCHAT_TEST", raising=False)
    (tmp_path / ".env").write_bytes("NOXCHAT_TEST=ночь\n".encode("utf-8-sig"))
    load_env()
    assert __import__("os").environ.pop("NOXCHAT_TEST") == "ночь"


def test_env_that_is_a_folder_is_a_sentence_or_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    monkeypatch.setattr(
        config_module,
        "load_dotenv",
        lambda *_args, **_options: (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
    )
    with pytest.raises(ConfigError, match="cannot be read .Permission denied.: give it to the user"):
        load_env()


@pytest.mark.parametrize("content", [b"\xff\xfe0\x001\x00", "ключ".encode()])
def test_secret_key_that_is_no_text_is_a_sentence(tmp_path, content):
    (tmp_path / "secret_key").write_bytes(content)
    with pytest.raises(ConfigError, match="SECRET_KEY: .*secret_key cannot be read"):
        Config({"DATA_DIR": str(tmp_path)})


@pytest.mark.parametrize(
    "uri",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/nox.db", "mysql://x/y", "sqlite", "postgresql"],
)
def test_database_address_that_cannot_work_is_a_sentence(uri):
    with pytest.raises(ConfigError, match="SQLALCHEMY_DATABASE_URI: write"):
        Config({**KEY, "SQLALCHEMY_DATABASE_URI": uri})


def test_several_processes_on_sqlite_are_refused():
    with pytest.raises(ConfigError, match="WORKERS is 4: with SQLite write 1"):
        Config({**KEY, "WORKERS": "4"})
    assert Config({**KEY, "WORKERS": "4", "SQLALCHEMY_DATABASE_URI": "postgresql://x/y"}).WORKERS == 4


def test_options_of_a_postgresql_address_are_used(make_app, new_database):
    app = make_app(uri=new_database("postgresql") + "&options=-c%20work_mem%3D3MB&connect_timeout=7")
    with app.app_context():
        shown = {
            name: db.session.scalar(text(f"SHOW {name}")) for name in ("work_mem", "timezone", "statement_timeout")
        }
        assert shown == {"work_mem": "3MB", "timezone": "UTC", "statement_timeout": "10s"}
        assert db.session.scalar(select(func.count(User.id))) == 0


def test_home_works_without_changelog(app, monkeypatch, tmp_path):
    alice = make_person(app, "Alice", public_id="alice")
    befriend(app, alice, make_person(app, "Bob", public_id="bobby"))
    browser = Browser(app, alice)
    for folder in (tmp_path / "nothing", tmp_path):
        monkeypatch.setattr(changelog, "FOLDER", Path(folder))
        assert browser.get("/").status_code == 200
    (tmp_path / "en.md").write_bytes("## 9.9 · 2030-01-01\n\n- Ünlesbar.\n".encode("latin-1"))
    page = browser.get("/")
    assert page.status_code == 200 and "9.9" not in page.text
    (tmp_path / "en.md").write_text("## 9.9 · 2030-01-01\n\n- Lesbar.\n")
    assert "Lesbar." in browser.get("/").text


def test_news_have_the_same_releases_in_every_language(monkeypatch):
    monkeypatch.setattr(changelog, "MAX_ENTRIES", 1000)
    changelog._parse.cache_clear()
    releases = {
        language: [(entry.version, entry.date, len(entry.highlights)) for entry in changelog.latest_entries(language)]
        for language in LANGUAGES
    }
    changelog._parse.cache_clear()
    assert len({str(entries) for entries in releases.values()}) == 1 and len(releases["en"]) >= 3
    assert f"## {releases['en'][0][0]} ·" in (ROOT / "CHANGELOG.md").read_text()
