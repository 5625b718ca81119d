"""Restoring a backup, as a whole or not at all.

Everything is unpacked, checked and migrated beside what is there. Then a file says that a restore is going on, without
which nothing is moved: a server does not start while it exists, and the next attempt finishes what it describes.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flask import current_app
from sqlalchemy import Connection, inspect

from noxchat import schema
from noxchat.database import now, without_statement_timeout
from noxchat.extensions import db
from noxchat.files import give_to_owner, lock_file, make_private_folder, write_whole
from noxchat.hosting import ASIDE, RESTORE_JOURNAL, SERVER_LOCK, HostingError, archive, translated_errors
from noxchat.hosting.archive import AVATARS, DATABASE_FILES, KEY, Manifest
from noxchat.hosting.backup import Progress, check_known, check_sqlite, check_tables, open_sqlite

STAGING = ".restore"
OTHER_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)
CLOSING_SECONDS = 2  # for which PostgreSQL may still list a connection that was closed


@dataclass
class Journal:
    """What is being restored.

    aside: the name of the folders, and of the schema, to which what was there goes. step: of the database, the next.
    """

    backup: str
    aside: str
    step: str = "move aside"

    def save(self):
        """Write it to disk. Raises OSError."""
        with write_whole(_data_dir() / RESTORE_JOURNAL, owner_of=_data_dir()) as file:
            file.write(json.dumps(self.__dict__).encode())


def _data_dir() -> Path:
    return current_app.config["DATA_DIR"]


def interrupted() -> Journal | None:
    """Return the restore that was interrupted, if there is one."""
    path = _data_dir() / RESTORE_JOURNAL
    return Journal(**json.loads(path.read_bytes())) if path.is_file() else None


@contextmanager
def without_server() -> Iterator[None]:
    """Keep a server from starting during a with statement. Raises HostingError when one is running."""
    with lock_file(_data_dir() / SERVER_LOCK) as is_locked:
        if not is_locked:
            raise HostingError("NoxChat is running: stop it first.")
        if db.engine.dialect.name == "postgresql" and (count := _other_connections()):
            raise HostingError(f"{count} other connections use the database: stop NoxChat on all machines first.")
        yield


def _other_connections() -> int:
    """Return how many connections to the database there are besides this one."""
    db.session.remove()
    db.engine.dispose()
    deadline = time.monotonic() + CLOSING_SECONDS
    with db.engine.connect() as connection:
        while (count := connection.exec_driver_sql(OTHER_CONNECTIONS).scalar_one()) and time.monotonic() < deadline:
            connection.rollback()
            time.sleep(0.1)
        return count


def restore(path: Path, *, replace: bool, progress: Progress) -> tuple[Manifest, list[Path]]:
    """Restore a backup. Returns what it has, and the folders with what was there before, if something was.

    replace: whether to move aside what is there; without, the place has to be empty. Raises HostingError.
    """
    with translated_errors("Not restored"), without_server(), archive.open_archive(path) as source:
        check_known(source.manifest)
        if source.manifest.database != db.engine.dialect.name:
            raise HostingError(_other_database(source.manifest))
        journal = interrupted()
        if journal is None or journal.backup != source.manifest.created_at:
            if journal:
                _finish(journal, progress)
            if not replace and not _is_empty():
                raise HostingError("There is data here already. With --replace it is moved aside.")
            journal = _prepare(source, progress)
        _finish(journal, progress)
        parents = {_data_dir(), current_app.config["AVATAR_DIR"], Path(str(db.engine.url.database)).parent}
        return source.manifest, sorted(each / journal.aside for each in parents if (each / journal.aside).exists())


def has_key_of_backup() -> bool:
    """Tell whether the key that was restored is the one that is used, which the environment may set."""
    key = os.environ.get("SECRET_KEY", "").strip()
    return not key or key == (_data_dir() / KEY).read_text(encoding="utf-8").strip()


def _other_database(manifest: Manifest) -> str:
    if manifest.database == "sqlite":
        return "This backup is of SQLite: restore it without SQLALCHEMY_DATABASE_URI, then use flask move-to."
    return "This backup is of PostgreSQL: set SQLALCHEMY_DATABASE_URI to a database of PostgreSQL."


def _is_empty() -> bool:
    avatars = current_app.config["AVATAR_DIR"]
    if (_data_dir() / KEY).exists() or (avatars.is_dir() and any(avatars.glob("*/*"))):
        return False
    if db.engine.dialect.name == "sqlite" and not _sqlite_file().exists():
        return True
    with db.engine.connect() as connection:
        return not _has_tables(connection)


def _has_tables(connection: Connection) -> bool:
    return bool(inspect(connection).get_table_names())


def _sqlite_file() -> Path:
    """Return the file of the database. Raises HostingError."""
    database = str(db.engine.url.database)
    if database.startswith("file:"):
        raise HostingError("SQLALCHEMY_DATABASE_URI: write the path of the file, sqlite:///instance/noxchat.db.")
    return Path(database)


def _prepared_file() -> Path:
    """Return where a restored database of SQLite waits: in the same folder, so that it can be renamed."""
    return _sqlite_file().with_name(f".{_sqlite_file().name}.restored")


def _prepare(source: archive.Archive, progress: Progress) -> Journal:
    """Unpack a backup, check it and bring it up to date, as far as that is possible before anything is moved."""
    staging, manifest = _data_dir() / STAGING, source.manifest
    shutil.rmtree(staging, ignore_errors=True)
    make_private_folder(staging)
    progress("reading the file")
    source.extract(staging)
    prepare = _prepare_sqlite if manifest.database == "sqlite" else _prepare_postgresql
    prepare(staging / DATABASE_FILES[manifest.database], manifest, progress)
    (staging / archive.MANIFEST).write_text(json.dumps(manifest.__dict__))
    os.sync()  # before the journal says that all of this is there
    journal = Journal(manifest.created_at, f"{ASIDE}{now():%Y%m%d_%H%M%S_%f}")
    journal.save()
    return journal


def _prepare_sqlite(file: Path, manifest: Manifest, progress: Progress):
    check_sqlite(file, manifest, progress)
    with open_sqlite(file) as engine:
        progress("migrating")
        schema.upgrade(engine)
        with engine.begin() as connection:
            _forget_sessions(connection, manifest)
    target = _prepared_file()
    make_private_folder(target.parent)
    target.unlink(missing_ok=True)
    shutil.move(file, target)
    target.chmod(0o600)
    give_to_owner(target, _data_dir())


def _prepare_postgresql(file: Path, _manifest: Manifest, _progress: Progress):
    from noxchat.hosting import postgresql_tools

    with db.engine.connect() as connection:
        postgresql_tools.check_dump(file, postgresql_tools.server_version(connection))
        if _has_tables(connection) and not postgresql_tools.may_create_schema(connection):
            name, role = db.engine.url.database, db.engine.url.username
            raise HostingError(f'To move aside what is there, run GRANT CREATE ON DATABASE "{name}" TO "{role}".')


def _forget_sessions(connection: Connection, manifest: Manifest):
    """End all sessions of a backup without the key, with which their cookies were signed."""
    if KEY not in manifest.files:
        connection.exec_driver_sql("DELETE FROM sessions")


def _finish(journal: Journal, progress: Progress):
    """Move what was there aside, and what was restored in its place. Each step can be repeated after a crash."""
    data_dir, staging = _data_dir(), _data_dir() / STAGING
    manifest = Manifest(**json.loads((staging / archive.MANIFEST).read_text()))
    db.session.remove()
    db.engine.dispose()  # no connection may keep a file open that is moved
    if manifest.database == "postgresql":
        _load(journal, manifest, progress)
    elif _prepared_file().exists():
        target = _sqlite_file()
        for suffix in ("", "-wal", "-shm", "-journal"):
            _move_aside(target.with_name(target.name + suffix), journal)
        _prepared_file().rename(target)
    _replace_pictures(staging, journal)
    if (staging / KEY).exists() or KEY not in manifest.files:
        _move_aside(data_dir / KEY, journal)
    if (staging / KEY).exists():
        (staging / KEY).rename(data_dir / KEY)
    os.sync()
    (data_dir / RESTORE_JOURNAL).unlink()
    shutil.rmtree(staging)


def _replace_pictures(staging: Path, journal: Journal):
    """Replace what is in the folder of the pictures, but not that itself, which may be a link or on another disk."""
    target, restored, is_aside = current_app.config["AVATAR_DIR"], staging / AVATARS, staging / "pictures-are-aside"
    if not target.is_dir():
        make_private_folder(target)
    if not is_aside.exists():
        for each in target.glob("[!.]*"):
            if not each.name.startswith(ASIDE):
                _move_aside(each, journal, AVATARS)
        is_aside.touch()
    for each in restored.iterdir() if restored.exists() else ():
        if (target / each.name).exists():  # copied in part, to another disk
            shutil.rmtree(target / each.name)
        shutil.move(each, target / each.name)


def _move_aside(path: Path, journal: Journal, subfolder: str = ""):
    """Rename a file or folder, if it is there, so that it is in a folder for what was there before.

    That is in DATA_DIR, or beside it on another disk. What was moved there before an interruption stays.
    """
    if not path.exists():
        return
    is_near = path.parent.stat().st_dev == _data_dir().stat().st_dev
    aside = (_data_dir() / journal.aside / subfolder) if is_near else path.parent / journal.aside
    make_private_folder(aside)
    number = sum(1 for _moved in aside.glob(f"{path.name}*"))
    path.rename(aside / (f"{path.name}.{number}" if (aside / path.name).exists() else path.name))


def _load(journal: Journal, manifest: Manifest, progress: Progress):
    """Load a dump into PostgreSQL. What was there goes into another schema."""
    from noxchat.hosting import postgresql_tools

    file = _data_dir() / STAGING / DATABASE_FILES["postgresql"]
    with db.engine.connect() as connection:
        version, has_tables = postgresql_tools.server_version(connection), _has_tables(connection)
    if journal.step == "move aside":
        if has_tables:
            postgresql_tools.move_aside(db.engine, journal.aside)
        journal.step = "load"
        journal.save()
        has_tables = False
    if journal.step == "load":
        if not has_tables:  # or it was interrupted after this
            progress("loading the database")
            postgresql_tools.restore(db.engine.url, file, version)
        with db.engine.connect() as connection, without_statement_timeout(connection):
            connection.commit()
            check_tables(connection, manifest, progress)
        journal.step = "migrate"
        journal.save()
    progress("migrating")
    schema.upgrade(db.engine)
    with db.engine.begin() as connection:
        _forget_sessions(connection, manifest)
