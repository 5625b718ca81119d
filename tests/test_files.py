"""What NoxChat creates can be opened by its own user only, with the usual umask, whichever command creates it."""

import fcntl
import io
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from flask_mail import Message
from PIL import Image
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from config import ROOT, Config
from noxchat.avatars import FileChanges, _write_atomically
from noxchat.database import Locked, configure_engine, exclusive_lock, protect_sqlite_files
from noxchat.extensions import db
from noxchat.files import make_private_folder
from noxchat.mail import worker
from tests.conftest import Visitor, free_port, settings, wait_until
from tests.test_cli import run_doctor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of several users")


@pytest.fixture(autouse=True)
def usual_umask():
    """With which files can be read by everybody. The processes that a test starts inherit it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def open_to_others(folder):
    """Return what other users could open, with its mode: the folder and all below it."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        try:
            if mode(path) & 0o077 and not path.is_symlink():
                found[str(path)] = oct(mode(path))
        except FileNotFoundError:  # a temporary file
            continue
    return found


@pytest.fixture
def fresh(tmp_path):
    """Settings with a DATA_DIR and a LOG_DIR in a folder that does not exist yet, for a new database."""
    data = tmp_path / "new" / "nested" / "data"
    more = {"DATA_DIR": data, "LOG_DIR": data / "logs", "DEMO": "0", "FLASK_DEBUG": "0"}
    return {**settings(tmp_path, f"sqlite:///{data}/noxchat.db"), **{name: str(more[name]) for name in more}}


def run(fresh, *command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **fresh, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


CREATE_APP = "from config import Config; from noxchat import create_app; create_app(Config())"
CONNECT = "\nfrom noxchat.extensions import db\nwith app.app_context(): db.engine.connect().close()"
COMMANDS = {
    "create_app": ("-c", CREATE_APP),
    "create_app, connected": ("-c", CREATE_APP.replace("create_app(C", "app = create_app(C") + CONNECT),
    "make_secret_key": ("-c", "import config; config.make_secret_key()"),
    "config check": ("-m", "gunicorn", "main:app", "--check-config"),
    **{
        command: ("-m", "flask", "--app", "main", *command.split())
        for command in ("db upgrade", "db current", "doctor", "search status", "search reindex", "users list")
    },
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_creates_private_files_only(command, fresh, tmp_path):
    secret_key = {"SECRET_KEY": ""} if command == "make_secret_key" else {}
    result = run(fresh, *COMMANDS[command], **secret_key)
    assert Path(fresh["DATA_DIR"]).is_dir(), result.stderr
    assert open_to_others(tmp_path / "new") == {}
    assert (
        command in ("create_app", "make_secret_key", "config check", "search status")
        or (Path(fresh["DATA_DIR"]) / "noxchat.db").is_file()
    ), result.stderr


def picture():
    out = io.BytesIO()
    Image.new("RGB", (300, 300), "teal").save(out, "PNG")
    return out.getvalue()


def test_running_server_has_private_files_only(serve, fresh, tmp_path):
    """The demo, an avatar that was uploaded, and an e-mail that was sent; while SQLite's other files exist."""
    server = serve(
        uri=fresh["SQLALCHEMY_DATABASE_URI"],
        **{name: fresh[name] for name in ("DATA_DIR", "LOG_DIR")},
        SECRET_KEY="",
        DEMO=1,
        LOG_FILE_BYTES=10_000,
    )
    data, visitor = Path(fresh["DATA_DIR"]), Visitor(server).register("Quentin")
    assert visitor.upload("/settings/profile", {"username": "Quentin", "public_id": "quentin", "bio": ""}, picture())
    visitor.post("/auth/reset", {"email": visitor.email})
    wait_until(lambda: list((data / "mail").glob("*.eml")))
    for _page in range(120):  # until the log is rotated
        visitor.open("/healthz")
    names = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
    expected = {"noxchat.db", "noxchat.db-wal", "noxchat.db-shm", "secret_key", "demo-password", "avatars/.lock"}
    assert expected | {"logs/noxchat.log", "logs/noxchat.log.1"} <= names, names
    assert list((data / "avatars" / "quentin").glob("*.webp"))
    assert open_to_others(tmp_path / "new") == {}


def test_development_server_has_private_files_only(fresh, tmp_path):
    port = free_port()
    assert run(fresh, *COMMANDS["db upgrade"]).returncode == 0
    command = [sys.executable, "-m", "flask", "--app", "main", "run", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, **fresh}, cwd=ROOT, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
            assert Path(fresh["DATA_DIR"], "noxchat.db-shm").is_file()
            assert open_to_others(tmp_path / "new") == {}
        finally:
            server.terminate()


def answers(url):
    try:
        with urllib.request.urlopen(url) as response:
            return response.status == 200
    except OSError:
        return False


def test_database_outside_the_data_folder_is_private(make_app, tmp_path):
    app = make_app(uri=f"sqlite:///{tmp_path}/elsewhere.db")
    with app.app_context(), db.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE one (id INTEGER)")
        assert {mode(path) for path in tmp_path.glob("elsewhere.db*")} == {0o600}
        assert len(list(tmp_path.glob("elsewhere.db*"))) == 3


@pytest.mark.parametrize("is_link", [False, True])
def test_database_of_an_earlier_release_is_made_private(is_link, make_app, tmp_path, monkeypatch):
    """With its -wal and -shm, which another process still has open."""
    file = tmp_path / "old.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE kept (id INTEGER)")
        other.execute("INSERT INTO kept VALUES (7)")
        other.commit()
        paths = [file, Path(f"{file}-wal"), Path(f"{file}-shm")]
        assert [mode(path) for path in paths] == [0o644] * 3
        if is_link:
            # As an ordinary user: root does not change what a link leads to.
            monkeypatch.setattr(os, "geteuid", os.getuid if os.getuid() else lambda: 1)
            monkeypatch.setattr(os, "lstat", as_owned_by(os.geteuid()))
            (tmp_path / "link.db").symlink_to(file)
        app = make_app(uri=f"sqlite:///{tmp_path}/{'link' if is_link else 'old'}.db")
        with app.app_context(), db.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT id FROM kept").scalar_one() == 7
        assert [mode(path) for path in paths] == [0o600] * 3
        other.execute("INSERT INTO kept VALUES (8)")
        other.commit()


def as_owned_by(user):
    """Return a function like os.lstat that finds this owner everywhere."""
    lstat = os.lstat

    def found(path, **options):
        values = list(lstat(path, **options))
        return os.stat_result([*values[:4], user, *values[5:]])

    return found


def test_database_of_another_user_is_left(tmp_path, monkeypatch):
    file = tmp_path / "theirs.db"
    file.touch(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    protect_sqlite_files(str(file))
    assert mode(file) == 0o644


def test_root_does_not_follow_a_link(tmp_path, monkeypatch):
    """Or a user could have it change any file of root's."""
    (tmp_path / "file").touch(0o644)
    (tmp_path / "link.db").symlink_to(tmp_path / "file")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "lstat", as_owned_by(0))
    protect_sqlite_files(str(tmp_path / "link.db"))
    assert mode(tmp_path / "file") == 0o644


@pytest.mark.parametrize("database", [None, "", ":memory:"])
def test_database_in_memory_creates_no_file(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    protect_sqlite_files(database)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def shared_folder():
    """A folder that every user can enter."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work):
    """Return what work() returns or raises, as text, in a process of another user."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            result = str(work())
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        result = file.read()
    os.waitpid(pid, 0)
    return result


def write_to(path):
    engine = create_engine(f"sqlite:///{path}")
    configure_engine(engine)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE new (id INTEGER)")
        return "written"
    except OperationalError as error:
        return error.orig
    finally:
        engine.dispose()


@needs_root
def test_sqlite_reports_what_it_may_not_open(shared_folder):
    with closing(sqlite3.connect(shared_folder / "roots.db")) as connection:
        connection.execute("CREATE TABLE old (id INTEGER)")
    private = shared_folder / "private.db"
    private.touch(0o600)
    assert "readonly database" in as_nobody(lambda: write_to(shared_folder / "roots.db"))
    assert as_nobody(lambda: write_to(private)) == "unable to open database file"
    assert as_nobody(lambda: write_to(shared_folder / "new.db")) == "unable to open database file"
    assert as_nobody(lambda: write_to(shared_folder / "nowhere" / "new.db")) == "unable to open database file"
    assert as_nobody(lambda: write_to(shared_folder)) == "unable to open database file"
    assert mode(shared_folder / "roots.db") == 0o644 and not (shared_folder / "new.db").exists()


def test_new_database_is_closed_before_another_thread_opens_it(tmp_path, monkeypatch):
    """Closing it would end the locks that SQLite holds for that thread."""
    close, is_closing, may_close = os.close, threading.Event(), threading.Event()

    def close_later(descriptor):
        if threading.current_thread() is first:
            is_closing.set()
            assert may_close.wait(10)
        close(descriptor)

    monkeypatch.setattr(os, "close", close_later)
    first, second = (threading.Thread(target=protect_sqlite_files, args=(f"{tmp_path}/new.db",)) for _thread in "ab")
    first.start()
    assert is_closing.wait(10)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    may_close.set()
    first.join()
    second.join()


def test_existing_database_is_not_opened(tmp_path, monkeypatch):
    """Nor then, for the same reason."""
    for name in ("old.db", "old.db-wal", "old.db-shm"):
        (tmp_path / name).touch(0o644)
    opened, open_file = [], os.open

    def record(path, *args, **kwargs):
        opened.append(open_file(path, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(os, "open", record)
    protect_sqlite_files(f"{tmp_path}/old.db")
    assert not opened and {mode(path) for path in tmp_path.iterdir()} == {0o600}


def lock_file(app):
    return Path(f"{app.config['SQLALCHEMY_DATABASE_URI'].removeprefix('sqlite:///')}-search-users.lock")


def hold_lock(app):
    with app.app_context(), exclusive_lock(db.engine, "search-users"):
        assert lock_file(app).is_file()
    return lock_file(app)


def test_lock_file_of_the_search_is_private(app):
    assert mode(hold_lock(app)) == 0o600


def test_lock_file_of_an_earlier_release_is_made_private(app):
    lock_file(app).touch(0o644)
    assert mode(hold_lock(app)) == 0o600


@needs_root
def test_lock_file_that_root_creates_belongs_to_the_owner_of_the_database(shared_folder, make_app):
    shared_folder.chmod(0o777)
    database = shared_folder / "nox.db"
    app = make_app(uri=f"sqlite:///{database}")
    with app.app_context():
        db.engine.connect().close()
    os.chown(database, 65534, 65534)
    path = hold_lock(app)
    assert (path.stat().st_uid, mode(path)) == (65534, 0o600)
    assert as_nobody(lambda: hold_lock(app)) == str(path)


def app_of_nobody(folder, make_app):
    """Return an application whose database belongs to another user, in a folder that all may write."""
    folder.chmod(0o777)
    app = make_app(uri=f"sqlite:///{folder}/nox.db")
    with app.app_context():
        db.engine.connect().close()
    os.chown(folder / "nox.db", 65534, 65534)
    return app


@needs_root
def test_lock_file_that_root_created_in_an_earlier_release_can_still_be_opened(shared_folder, make_app):
    app = app_of_nobody(shared_folder, make_app)
    lock_file(app).touch(0o644)
    assert mode(hold_lock(app)) == 0o644
    assert as_nobody(lambda: hold_lock(app)) == str(lock_file(app))


@needs_root
def test_lock_file_of_another_user_counts_as_locked(shared_folder, make_app):
    app = app_of_nobody(shared_folder, make_app)
    lock_file(app).touch(0o600)
    assert (
        as_nobody(lambda: hold_lock(app)) == f"{Locked.__name__}: {lock_file(app)} belongs to another user: delete it"
    )


@needs_root
def test_lock_file_of_avatars_that_root_creates_belongs_to_their_owner(app):
    folder = app.config["AVATAR_DIR"]
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    FileChanges(folder).commit()
    assert ((folder / ".lock").stat().st_uid, mode(folder / ".lock")) == (65534, 0o600)


def test_lock_file_of_avatars_of_an_earlier_release_is_made_private(app):
    folder = app.config["AVATAR_DIR"]
    folder.mkdir()
    (folder / ".lock").touch(0o644)
    changes = FileChanges(folder)
    assert mode(folder / ".lock") == 0o600
    with open(folder / ".lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    changes.commit()


@pytest.mark.parametrize("permissions", [0o755, 0o750, 0o711, 0o707])
def test_existing_folder_is_left_and_doctor_says_that_others_can_enter_it(permissions, make_app, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(permissions)
    app = make_app(DATA_DIR=folder)
    code, states, output = run_doctor(app)
    assert mode(folder) == permissions
    assert (code, states["Data folder"]) == (0, "note"), output
    assert f"other users can enter it: chmod 700 {folder}" in output
    folder.chmod(0o700)
    assert run_doctor(app)[1]["Data folder"] == "ok"


def test_doctor_says_to_whom_a_shared_folder_has_to_belong(app, monkeypatch):
    app.config["DATA_DIR"].chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "give it to the user that runs NoxChat, then chmod 700" in run_doctor(app)[2]


def test_private_folder_fails_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError):
            make_private_folder(path)


KILLED = """
import os, sys
def kill(*args, **kwargs):
    os._exit(9)
import secrets, config
target = {"secrets": secrets, "os": os}[sys.argv[1]]
setattr(target, sys.argv[2], kill)
config.make_secret_key()
"""


@pytest.mark.parametrize("step", [("secrets", "token_hex"), ("os", "fdopen"), ("os", "fsync"), ("os", "link")])
def test_start_that_is_killed_leaves_no_partial_secret_key(step, fresh):
    file = Path(fresh["DATA_DIR"]) / "secret_key"
    assert run(fresh, "-c", KILLED, *step, SECRET_KEY="").returncode == 9
    assert not file.exists()
    assert run(fresh, *COMMANDS["make_secret_key"], SECRET_KEY="").returncode == 0
    assert len(file.read_text()) == 64 and mode(file) == 0o600
    assert Config({"DATA_DIR": fresh["DATA_DIR"]}, debug=False).SECRET_KEY == file.read_text()


@pytest.mark.parametrize("has_links", [True, False])
def test_processes_that_start_at_once_agree_on_one_secret_key(has_links, fresh):
    code = "import sys, os, config\n"
    # As on a file system without hard links. There the last one to rename its file would win, so it looks first.
    code += "" if has_links else "def link(*_): raise PermissionError\nos.link = link\n"
    code += "sys.stdin.read(); config.make_secret_key(); print(config.Config().SECRET_KEY)"
    count = 6 if has_links else 1
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **fresh, "SECRET_KEY": ""},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _process in range(count)
    ]
    for process in processes:
        process.stdin.close()
    keys = set()
    for process in processes:
        with process:
            keys.add(process.stdout.read().strip())
    (key,) = keys
    assert key == (Path(fresh["DATA_DIR"]) / "secret_key").read_text()
    assert [path.name for path in Path(fresh["DATA_DIR"]).glob("*secret_key*")] == ["secret_key"]


def test_existing_secret_key_is_kept_and_an_empty_one_is_named(fresh):
    folder = Path(fresh["DATA_DIR"])
    folder.mkdir(parents=True)
    (folder / "secret_key").write_text("k" * 40)
    assert run(fresh, *COMMANDS["make_secret_key"], SECRET_KEY="").returncode == 0
    assert (folder / "secret_key").read_text() == "k" * 40
    (folder / "secret_key").write_text("")
    result = run(fresh, "-m", "noxchat.web.server", SECRET_KEY="")
    assert result.returncode == 1 and f"{folder}/secret_key is empty; delete it" in result.stderr


def test_folders_are_private_when_the_data_folder_is_created_again(app):
    """After somebody deleted it while the server runs."""
    shutil.rmtree(app.config["DATA_DIR"])
    _write_atomically(app.config["AVATAR_DIR"] / "alice" / "x.webp", b"x")
    assert open_to_others(app.config["DATA_DIR"]) == {}
    shutil.rmtree(app.config["DATA_DIR"])
    with app.app_context():
        worker._deliver(Message("Subject", recipients=["alice@nox.example"], body="Body"))
    assert list(app.config["MAIL_DIR"].glob("*.eml"))
    assert open_to_others(app.config["DATA_DIR"]) == {}
