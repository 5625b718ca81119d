"""flask backup, backup verify and restore: everything is kept, as a whole or not at all, from every release on."""

import gzip
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import flask_migrate
import psycopg
import pytest
from PIL import Image
from sqlalchemy import delete, select, text

from config import ROOT
from noxchat.database import begin_write
from noxchat.extensions import db
from noxchat.hosting import archive, backup, tables
from noxchat.hosting.archive import Manifest
from noxchat.models import Profile, Session
from tests.conftest import DATABASES, Browser, befriend, make_person, settings
from tests.main.test_avatars import encode, upload
from tests.test_cli import run

RELEASES = sorted((path.name.removesuffix(".json") for path in (ROOT / "tests/releases").glob("*.json")), key=len)


def silent(_text):
    """Show no progress."""


def people_with_pictures(app):
    """Create Alice and Bob, who have pictures and are friends; return Alice."""
    people = [make_person(app, name, public_id=name.lower()) for name in ("Alice", "Bobby")]
    befriend(app, *people)
    for person in people:
        assert change_picture(Browser(app, person), person).status_code == 303
    return people[0]


def change_picture(browser, person):
    """Upload a picture that nobody has."""
    picture = encode(Image.new("RGB", (30, 30), tuple(os.urandom(3))), "PNG")
    return upload(browser, picture, username=person.username, public_id=person.public_id)


def tables_of(app):
    with app.app_context(), db.engine.connect() as connection:
        return tables.summarize(connection, tables.list_tables(connection))


def pictures_of(app):
    return {
        str(p.relative_to(app.config["AVATAR_DIR"])): p.read_bytes() for p in app.config["AVATAR_DIR"].glob("*/*.webp")
    }


@pytest.fixture
def make_empty(make_app, tmp_path, request):
    """Return a function that creates an application in an empty installation, with its own DATA_DIR and empty database."""
    made = iter(range(100))

    def make(database, key="a key of another installation, of 32 characters", **more):
        folder = tmp_path / f"empty{next(made)}"
        if database == "sqlite":
            uri = f"sqlite:///{folder}/data/noxchat.db"
        else:
            postgres, name = request.getfixturevalue("postgres"), f"nox_empty_{os.getpid()}_{folder.name}"
            postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            postgres.execute(f"CREATE DATABASE {name}")
            uri = postgres.uri(name)
        return make_app(uri=uri, DATA_DIR=folder / "data", LOG_DIR=folder / "logs", SECRET_KEY=key, **more)

    return make


def test_backup_is_one_private_file_that_is_verified(any_app, tmp_path):
    people_with_pictures(any_app)
    file = tmp_path / "out" / "b.tar.gz"
    made = run(any_app, "backup", str(file))
    assert made.exit_code == 0 and made.output.startswith(f"Backed up 2 people and 0 messages to {file} ("), made.output
    assert made.output.count("\n") == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [path.name for path in file.parent.iterdir()] == ["b.tar.gz"]
    with tarfile.open(file) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        assert tar.extractfile("secret_key").read().decode().strip() == any_app.config["SECRET_KEY"]
        assert {member.mode for member in tar} == {0o600}
    assert manifest["tables"] == tables_of(any_app) and manifest["avatars"][0] == 2 == len(pictures_of(any_app))
    verified = run(any_app, "backup", "verify", str(file))
    assert verified.exit_code == 0 and "is whole" in verified.output and "2 pictures" in verified.output
    assert not list(any_app.config["DATA_DIR"].glob(".backup-*"))


def test_backup_without_a_name_keeps_the_newest(app, alice):
    for number in range(3):
        (app.config["DATA_DIR"] / "backups").mkdir(exist_ok=True)
        (app.config["DATA_DIR"] / "backups" / f"noxchat-2026-01-0{number + 1}-000000.tar.gz").touch()
    made = run(app, "backup", "--keep", "2")
    assert made.exit_code == 0 and "Deleted 2 older ones." in made.output
    names = sorted(path.name for path in (app.config["DATA_DIR"] / "backups").iterdir())
    assert names[0] == "noxchat-2026-01-03-000000.tar.gz" and len(names) == 2
    with app.app_context():
        assert backup.last_backup_at() is not None


def test_backup_that_cannot_be_made_is_a_sentence_and_leaves_nothing(app, alice, tmp_path, make_app):
    existing = tmp_path / "there.tar.gz"
    existing.touch()
    (tmp_path / "file").touch()
    for target, words in (
        (existing, "is there already"),
        (tmp_path / "file" / "b.tar.gz", "File exists"),
        (Path("/proc/b.tar.gz"), "/proc"),
    ):
        refused = run(app, "backup", str(target))
        assert refused.exit_code == 1 and refused.output.startswith("Error: ") and words in refused.output, (
            refused.output
        )
    assert existing.stat().st_size == 0 and not list(app.config["DATA_DIR"].glob(".backup-*"))
    assert "no tables" in run(make_app(uri=f"sqlite:///{tmp_path}/new.db"), "backup", str(tmp_path / "n.tar.gz")).output


def test_one_backup_at_a_time(app, alice, tmp_path):
    with app.app_context(), backup._scratch_folder():
        refused = run(app, "backup", str(tmp_path / "b.tar.gz"))
    assert refused.exit_code == 1 and "Another backup" in refused.output


def damage(kind, file):
    data = bytearray(file.read_bytes())
    if kind == "cut":
        del data[len(data) // 2 :]
    elif kind == "cut at the end":
        del data[-9:]
    elif kind == "byte":
        data[len(data) // 2] ^= 0xFF
    elif kind == "text":
        data = bytearray(b"no archive at all")
    elif kind == "empty":
        data = bytearray()
    file.write_bytes(data)


@pytest.mark.parametrize("kind", ["cut", "cut at the end", "byte", "text", "empty"])
def test_damaged_backup_is_refused_and_changes_nothing(app, alice, tmp_path, kind, make_empty):
    file = tmp_path / "b.tar.gz"
    run(app, "backup", str(file))
    damage(kind, file)
    empty = make_empty("sqlite")
    for result in (run(app, "backup", "verify", str(file)), run(empty, "restore", str(file))):
        assert result.exit_code == 1 and "damaged" in result.output and "Traceback" not in result.output, result.output
    assert not Path(empty.config["DATA_DIR"], "noxchat.db").exists()
    assert not list(app.config["DATA_DIR"].glob(".backup-*"))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "avatars/../../evil.webp", "other", "avatars/a/b/c.webp"])
def test_foreign_files_in_an_archive_are_refused(app, alice, tmp_path, name):
    file, forged = tmp_path / "b.tar.gz", tmp_path / "forged.tar.gz"
    run(app, "backup", str(file))
    with tarfile.open(file) as source, tarfile.open(forged, "w:gz") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
        evil = tarfile.TarInfo(name)
        target.addfile(evil)
    result = run(app, "backup", "verify", str(forged))
    assert result.exit_code == 1 and "damaged" in result.output
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("database", DATABASES)
def test_restore_brings_everything_back(database, make_app, make_empty, tmp_path):
    app = make_app(database)
    alice = people_with_pictures(app)
    browser = Browser(app, alice)
    link = re.search(r"(/auth/reset/\S+)", run(app, "users", "reset-link", "bobby").output)[1]
    before, pictures = tables_of(app), pictures_of(app)
    file = tmp_path / "b.tar.gz"
    assert run(app, "backup", str(file)).exit_code == 0
    target = make_empty(database, key=app.config["SECRET_KEY"])
    restored = run(target, "restore", str(file))
    assert restored.exit_code == 0 and restored.output.startswith("Restored 2 people"), restored.output
    assert tables_of(target) == before and pictures_of(target) == pictures
    assert (target.config["DATA_DIR"] / "secret_key").read_text().strip() == app.config["SECRET_KEY"]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in target.config["DATA_DIR"].rglob("*")} == {0}
    # Sessions and links work as before.
    other = Browser(target)
    other.set_cookie("SESSION", browser.cookie("SESSION"))
    assert other.get("/settings").status_code == 200
    assert Browser(target).get(link).status_code == 200
    again = run(target, "restore", str(file))
    assert again.exit_code == 1 and "--replace" in again.output
    with target.app_context():
        begin_write(db.session)
        db.session.execute(delete(Session))
        db.session.commit()
    replaced = run(target, "restore", str(file), "--replace")
    assert replaced.exit_code == 0 and "What was here before is in" in replaced.output, replaced.output
    assert tables_of(target) == before
    [aside] = target.config["DATA_DIR"].glob("before_restore_*")
    assert (aside / "avatars").is_dir() and (aside / "secret_key").is_file()
    if database == "sqlite":
        with sqlite3.connect(aside / "noxchat.db") as old:
            assert old.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    else:
        with target.app_context():
            assert db.session.scalar(text(f"SELECT count(*) FROM {aside.name}.sessions")) == 0


def test_restore_where_pictures_and_database_are_elsewhere(app, make_app, tmp_path):
    """The folder of the pictures is a link, as to a shared disk, and the database is in another folder."""
    people_with_pictures(app)
    before, pictures, file = tables_of(app), pictures_of(app), tmp_path / "b.tar.gz"
    run(app, "backup", str(file))
    shared, data_dir = tmp_path / "shared", tmp_path / "target"
    shared.mkdir()
    data_dir.mkdir(mode=0o700)
    (data_dir / "avatars").symlink_to(shared)
    (tmp_path / "disk").mkdir()
    target = make_app(uri=f"sqlite:///{tmp_path}/disk/x.db", DATA_DIR=data_dir)
    for number in range(2):
        assert run(target, "restore", str(file), *["--replace"] * number).exit_code == 0
        assert tables_of(target) == before and pictures_of(target) == pictures
        with target.app_context():
            db.engine.dispose()
    assert (data_dir / "avatars").is_symlink() and (tmp_path / "disk/x.db").stat().st_mode & 0o077 == 0
    assert run(target, "backup", str(tmp_path / "again.tar.gz")).exit_code == 0
    assert run(target, "backup", "verify", str(tmp_path / "again.tar.gz")).exit_code == 0
    assert not list(shared.glob(".links-*"))


def test_role_that_may_not_move_aside_is_told_before_anything_is_moved(make_app, postgres, tmp_path, make_empty):
    app = make_app("postgresql")
    people_with_pictures(app)
    file = tmp_path / "b.tar.gz"
    run(app, "backup", str(file))
    target = make_empty("postgresql")
    assert run(target, "restore", str(file)).exit_code == 0
    uri = target.config["SQLALCHEMY_DATABASE_URI"]
    name = uri.partition("@/")[2].partition("?")[0]
    role = f"nox_restorer_{os.getpid()}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    with psycopg.connect(postgres.uri(name), autocommit=True) as connection:
        connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    guest = make_app(uri=postgres.uri(name).replace("postgres@", f"{role}@"), DATA_DIR=tmp_path / "guest")
    refused = run(guest, "restore", str(file), "--replace")
    assert refused.exit_code == 1 and f'GRANT CREATE ON DATABASE "{name}" TO "{role}"' in refused.output
    assert not (tmp_path / "guest" / ".restore.json").exists()


@pytest.mark.parametrize("database", DATABASES)
def test_restore_without_the_key_ends_sessions_and_links(database, make_app, make_empty, tmp_path):
    app = make_app(database)
    browser = Browser(app, make_person(app, "Alice", public_id="alice"))
    browser.get("/")
    link = re.search(r"(/auth/reset/\S+)", run(app, "users", "reset-link", "alice").output)[1]
    file = tmp_path / "b.tar.gz"
    run(app, "backup", str(file), "--without-key")
    target = make_empty(database)
    restored = run(target, "restore", str(file))
    assert restored.exit_code == 0 and "no key" in restored.output
    other = Browser(target)
    other.set_cookie("SESSION", browser.cookie("SESSION"))
    assert other.get("/settings").status_code == 302 and Browser(target).get(link).status_code == 400
    assert Browser(target).log_in("alice").status_code == 303
    assert not (target.config["DATA_DIR"] / "secret_key").exists()


def test_restore_needs_the_same_kind_of_database_and_no_running_server(app, alice, tmp_path, make_empty, serve):
    file = tmp_path / "b.tar.gz"
    run(app, "backup", str(file))
    other = run(make_empty("postgresql"), "restore", str(file))
    assert other.exit_code == 1 and "flask move-to" in other.output
    server = serve("sqlite")
    refused = run(app, "restore", str(file), "--replace")
    assert refused.exit_code == 1 and "stop it first" in refused.output and server.get("/healthz").status == 200


def test_restore_is_refused_while_others_use_the_database(make_app, postgres, tmp_path):
    app = make_app("postgresql")
    make_person(app, "Alice")
    file = tmp_path / "b.tar.gz"
    run(app, "backup", str(file))
    with psycopg.connect(app.config["SQLALCHEMY_DATABASE_URI"].replace("+psycopg", "")):
        refused = run(app, "restore", str(file), "--replace")
    assert refused.exit_code == 1 and "other connections" in refused.output
    assert run(app, "restore", str(file), "--replace").exit_code == 0


def test_newer_backup_is_refused(app, alice, tmp_path, make_empty, monkeypatch):
    for name, change in (("revision", {"revision": "ffffffffffff"}), ("format", {"format": 2})):
        monkeypatch.undo()
        create = archive.write

        def write(file, folder, manifest, change=change, create=create):
            manifest.__dict__.update(change)
            create(file, folder, manifest)

        monkeypatch.setattr(archive, "write", write)
        file = tmp_path / f"{name}.tar.gz"
        assert run(app, "backup", str(file)).exit_code == 0
        result = run(make_empty("sqlite"), "restore", str(file))
        assert result.exit_code == 1 and "newer: update first" in result.output


@pytest.mark.parametrize("database", DATABASES)
def test_backup_made_while_people_write_is_of_one_moment(database, make_app, tmp_path, make_empty):
    """Whoever has a picture in the database has it in the archive."""
    any_app = make_app(database, AVATARS_PER_HOUR=1000, MESSAGES_PER_MINUTE=10_000)
    alice, bob = (make_person(any_app, name, public_id=name.lower()) for name in ("Alice", "Bobby"))
    befriend(any_app, alice, bob)
    path = Browser(any_app, alice).post("/u/bobby/chat").location
    stop, sent, failures = threading.Event(), [], []

    def write(person):
        browser = Browser(any_app, person)
        while not stop.is_set():
            message = {"body": "hello", "client_id": os.urandom(8).hex()}
            answers = [change_picture(browser, person), browser.post(f"{path}/messages", message)]
            failures.extend(answer.status_code for answer in answers if answer.status_code != 303)
            sent.append(person)

    threads = [threading.Thread(target=write, args=(person,)) for person in (alice, bob)]
    for thread in threads:
        thread.start()
    files = []
    try:
        while len(sent) < 10 and not failures:
            files.append(tmp_path / f"b{len(files)}.tar.gz")
            made = run(any_app, "backup", str(files[-1]))
            assert made.exit_code == 0, made.output
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [] and len(files) > 1
    for file in files[-4:]:
        assert run(any_app, "backup", "verify", str(file)).exit_code == 0
    target = make_empty(database)
    assert run(target, "restore", str(files[-1])).exit_code == 0
    with target.app_context():
        named = {f"{row.public_id}/{row.avatar}" for row in db.session.scalars(select(Profile)) if row.avatar}
    assert set(pictures_of(target)) == named and len(named) == 2


KILLED = """
import os, sys
number, begins_with = int(sys.argv[1]), sys.argv[2]
count, has_begun = 0, not begins_with
def hook(event, arguments):
    global count, has_begun
    has_begun = has_begun or event == "os.rename" and str(arguments[1]).endswith(begins_with)
    if has_begun and event in {"os.rename", "os.remove", "os.link", "subprocess.Popen", "os.mkdir"}:
        count += 1
        if count == number:
            os._exit(9)
from config import Config
from noxchat import create_app
app = create_app(Config(debug=False))
sys.addaudithook(hook)
result = app.test_cli_runner().invoke(args=sys.argv[3:])
print(result.output)
sys.exit(result.exit_code)
"""


def killed_at(number, environment, *arguments, begins_with=""):
    """Run a command that is killed instead of making its n-th change of files; return its exit code and output.

    begins_with: what ends the name of the file whose renaming is the first change that counts.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number), begins_with, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def start_server(environment):
    """Return the exit code and the words of a server that is expected not to start."""
    command = [sys.executable, "-m", "noxchat.web.server"]
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", DATABASES)
def test_restore_killed_at_any_step_is_never_taken_for_whole_and_the_next_one_works(
    database, make_app, make_empty, tmp_path
):
    app = make_app(database)
    people_with_pictures(app)
    before, pictures, file = tables_of(app), pictures_of(app), tmp_path / "b.tar.gz"
    assert run(app, "backup", str(file)).exit_code == 0
    for number in range(1, 60, 2 if database == "postgresql" else 1):
        target = make_empty(database, key=app.config["SECRET_KEY"])
        data_dir, uri = target.config["DATA_DIR"], target.config["SQLALCHEMY_DATABASE_URI"]
        with target.app_context():
            flask_migrate.upgrade()
        make_person(target, "Former", public_id="former")
        former = tables_of(target)
        with target.app_context():
            db.engine.dispose()
        environment = settings(data_dir.parent, uri, DATA_DIR=data_dir, SECRET_KEY=app.config["SECRET_KEY"])
        arguments = ("restore", str(file), "--replace")
        code, output = killed_at(number, environment, *arguments, begins_with=".restore.json")
        if code == 0:
            break
        assert code == 9, output
        if number == 4:
            code, output = start_server(environment)
            assert code == 1 and "restore was interrupted" in output
        if not (data_dir / ".restore.json").exists():
            assert tables_of(target) in (former, before)
            with target.app_context():
                db.engine.dispose()
        finished = run(target, *arguments)
        assert finished.exit_code == 0, (number, finished.output)
        assert tables_of(target) == before and pictures_of(target) == pictures and not (data_dir / ".restore").exists()
        asides = list(data_dir.glob("before_restore_*"))
        if database == "sqlite":
            names = [
                sqlite3.connect(aside / "noxchat.db").execute("SELECT username FROM users").fetchall()
                for aside in asides
            ]
            assert [("Former",)] in names
        with target.app_context():
            db.engine.dispose()
    assert number > 5


@pytest.mark.parametrize("number", [1, 4, 7])
def test_killed_backup_leaves_no_file_that_looks_whole(app, alice, tmp_path, number):
    file = tmp_path / "out" / "b.tar.gz"
    environment = settings(tmp_path, app.config["SQLALCHEMY_DATABASE_URI"])
    code, output = killed_at(number, environment, "backup", str(file))
    assert code == 9, output
    assert not file.exists()
    (file.parent).mkdir(exist_ok=True)
    (file.parent / ".noxchat-2026-11-27-000000.tar.gz.part").touch()
    assert run(app, "backup", str(file)).exit_code == 0
    assert [path.name for path in file.parent.iterdir()] == ["b.tar.gz"]
    assert run(app, "backup", "verify", str(file)).exit_code == 0
    assert not list(app.config["DATA_DIR"].glob(".backup-*"))


def release_archive(version, folder):
    """Write the database of a release, which that release's own code has made, as a backup; return it and its facts."""
    facts = json.loads((ROOT / f"tests/releases/{version}.json").read_text())
    content = folder / f"content-{version}"
    content.mkdir()
    with sqlite3.connect(content / "database.sqlite3") as connection:
        connection.executescript(gzip.decompress((ROOT / f"tests/releases/{version}.sql.gz").read_bytes()).decode())
    (content / "secret_key").write_text("the key of the release, of thirty-two characters\n")
    pictures = ROOT / f"tests/releases/avatars-{version}"
    for source in pictures.glob("*/*.webp"):
        (content / "avatars" / source.parent.name).mkdir(parents=True, exist_ok=True)
        (content / "avatars" / source.parent.name / source.name).write_bytes(source.read_bytes())
    manifest = Manifest(version, "2026-11-20T00:00:00+00:00", "sqlite", facts["revision"], {})
    with backup.open_sqlite(content / "database.sqlite3") as engine, engine.connect() as connection:
        manifest.tables = tables.summarize(connection, tables.list_tables(connection))
    file = folder / f"{version}.tar.gz"
    with open(file, "wb") as target:
        archive.write(target, content, manifest)
    return file, facts


@pytest.mark.parametrize("version", RELEASES)
def test_backup_of_every_release_is_restored_and_brought_up_to_date(version, tmp_path, make_empty):
    file, facts = release_archive(version, tmp_path)
    target = make_empty("sqlite")
    assert run(target, "backup", "verify", str(file)).exit_code == 0
    restored = run(target, "restore", str(file))
    assert restored.exit_code == 0, restored.output
    with target.app_context():
        assert run(target, "doctor").output.count("tables are current") == 1
        for name in ("users", "profiles", "friends", "friend_requests", "messages"):
            found = db.session.scalar(text(f"SELECT count(*) FROM {name}"))
            assert found == facts["tables"].get(name, 0), name
        for row in db.session.scalars(select(Profile).where(Profile.avatar.is_not(None))):
            path = target.config["AVATAR_DIR"] / row.public_id.lower() / row.avatar
            assert path.exists() or not (ROOT / f"tests/releases/avatars-{version}/{row.public_id.lower()}").exists()
    mila = Browser(target)
    assert mila.log_in("mila@nox.example").status_code == 303
    home = mila.get("/").text
    assert "Nika" in home and "Timur" in home
    if facts["tables"].get("messages"):
        assert "See you at moonrise 🌔" in mila.get("/chats").text
    assert len(RELEASES) >= 12
