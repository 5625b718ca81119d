"""Backups: one file with everything that has to be kept, made while people write, and tried out.

Database and pictures are of the same moment: see avatars.snapshot.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from flask import current_app
from sqlalchemy import Connection, Engine, create_engine

from noxchat import avatars, schema
from noxchat.database import now, without_statement_timeout
from noxchat.extensions import db
from noxchat.files import give_to_owner, lock_file, make_private_folder, write_whole
from noxchat.hosting import HostingError, archive, tables, translated_errors
from noxchat.hosting.archive import AVATARS, DATABASE_FILES, KEY, Manifest
from noxchat.version import VERSION

SCRATCH = ".backup-"  # the beginning of the name of a folder in DATA_DIR while a backup is made
LAST_BACKUP = "last_backup"  # a file in DATA_DIR: when the last one was made
NAME = "noxchat-{:%Y-%m-%d-%H%M%S}.tar.gz"
NAMES = "noxchat-????-??-??-??????.tar.gz"  # of which `remove_old` keeps the newest

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Backup:
    """A backup that was made."""

    path: Path
    manifest: Manifest

    @property
    def people(self) -> int:
        return self.manifest.tables.get("users", [0])[0]

    @property
    def messages(self) -> int:
        return self.manifest.tables.get("messages", [0])[0]


def default_path() -> Path:
    """Return where a backup goes if nothing else is said."""
    return current_app.config["DATA_DIR"] / "backups" / NAME.format(now())


def create(path: Path, *, with_key: bool = True, progress: Progress) -> Backup:
    """Write a backup to a file. Raises HostingError.

    path: of a new file, or of a folder. with_key: whether it contains the secret key.
    """
    path = path / NAME.format(now()) if path.is_dir() else path
    if path.exists():
        raise HostingError(f"{path} is there already: give another name, or a folder.")
    with translated_errors("The backup was not made"):
        make_private_folder(path.parent)
        with _scratch_folder() as folder:
            manifest = _collect(folder, progress)
            if with_key and not current_app.config["KEY_IS_TEMPORARY"]:
                (folder / KEY).write_text(current_app.config["SECRET_KEY"] + "\n", encoding="utf-8")
            progress("writing the file")
            for left in path.parent.glob(f".{NAMES}.part"):  # by a process that was killed
                left.unlink()
            data_dir = current_app.config["DATA_DIR"]
            with write_whole(path, owner_of=data_dir if data_dir in path.parents else None) as file:
                archive.write(file, folder, manifest)
        with write_whole(data_dir / LAST_BACKUP, owner_of=data_dir) as file:
            file.write(now().isoformat().encode())
    return Backup(path, manifest)


def last_backup_at() -> datetime | None:
    """Return when the last backup was made; None if none was, as far as is known."""
    try:
        return datetime.fromisoformat((current_app.config["DATA_DIR"] / LAST_BACKUP).read_text().strip())
    except (OSError, ValueError):
        return None


def remove_old(folder: Path, keep: int) -> int:
    """Delete all backups with usual names in a folder but the newest. Returns how many were deleted. Raises OSError."""
    old = sorted(folder.glob(NAMES))[:-keep]
    for path in old:
        path.unlink()
    return len(old)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Create a folder in DATA_DIR for a with statement. Raises HostingError while another backup is made."""
    parent = current_app.config["DATA_DIR"]
    with lock_file(parent / ".backup.lock") as is_locked:
        if not is_locked:
            raise HostingError("Another backup is being made.")
        for left in parent.glob(f"{SCRATCH}*"):  # by a process that was killed
            shutil.rmtree(left)
        folder = Path(mkdtemp(prefix=SCRATCH, dir=parent))
        give_to_owner(folder, parent)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _collect(folder: Path, progress: Progress) -> Manifest:
    """Write database and pictures of one moment into a folder, and return what they are."""
    kind = db.engine.dialect.name
    created_at = now().astimezone(UTC).isoformat(timespec="seconds")
    manifest = Manifest(VERSION, created_at, kind, "", {})
    collect = _collect_sqlite if kind == "sqlite" else _collect_postgresql
    collect(folder / DATABASE_FILES[kind], folder / AVATARS, manifest, progress)
    if not manifest.revision:
        raise HostingError("There is nothing to back up: the database has no tables.")
    return manifest


def _collect_sqlite(file: Path, pictures: Path, manifest: Manifest, progress: Progress):
    with closing(db.engine.raw_connection()) as pooled, closing(sqlite3.connect(file)) as copy:
        source = pooled.driver_connection
        assert isinstance(source, sqlite3.Connection)
        with avatars.snapshot(pictures):
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master")  # from here on, it reads what is there now
        progress("copying the database")
        source.backup(copy)
        source.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode = DELETE")  # or opening it would create other files beside it
    with open_sqlite(file) as engine, engine.connect() as connection:
        _describe(connection, manifest, progress)


def _collect_postgresql(file: Path, pictures: Path, manifest: Manifest, progress: Progress):
    from noxchat.hosting import postgresql_tools

    with (
        db.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        without_statement_timeout(connection),
    ):
        connection.commit()
        # Some servers end transactions that are idle for long, as this one is while pg_dump works.
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
        connection.commit()
        with avatars.snapshot(pictures):
            snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
        progress("copying the database")
        postgresql_tools.dump(connection, db.engine.url, snapshot, file)
        _describe(connection, manifest, progress)
        connection.rollback()


def _describe(connection: Connection, manifest: Manifest, progress: Progress):
    manifest.revision = schema.current_revision(connection)
    manifest.tables = tables.summarize(connection, tables.list_tables(connection), progress=progress)


@contextmanager
def open_sqlite(file: Path) -> Iterator[Engine]:
    """Open a SQLite file for a with statement, without settings of the application. Raises DBAPIError."""
    engine = create_engine(f"sqlite:///{file}", hide_parameters=True)
    try:
        yield engine
    finally:
        engine.dispose()


def verify(path: Path, progress: Progress) -> Manifest:
    """Restore a backup to a scratch place, and compare it with what it should have. Raises HostingError."""
    with translated_errors("Not verified"), _scratch_folder() as folder, archive.open_archive(path) as source:
        progress("reading the file")
        source.extract(folder)
        check_known(source.manifest)
        file = folder / DATABASE_FILES[source.manifest.database]
        check = check_sqlite if source.manifest.database == "sqlite" else _check_dump
        check(file, source.manifest, progress)
        return source.manifest


def check_known(manifest: Manifest):
    """Raise HostingError if a backup was made by a newer version."""
    if not schema.is_known(manifest.revision):
        raise HostingError(f"This backup was made by NoxChat {manifest.version}, which is newer: update first.")


def check_sqlite(file: Path, manifest: Manifest, progress: Progress):
    """Check that a restored SQLite file is whole. Raises HostingError."""
    with open_sqlite(file) as engine, engine.connect() as connection:
        progress("checking the database")
        found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        if found != ["ok"]:
            raise HostingError(f"The database in this backup is damaged: {found[0]}.")
        check_tables(connection, manifest, progress)


def _check_dump(file: Path, manifest: Manifest, progress: Progress):
    if db.engine.dialect.name != "postgresql":
        raise HostingError("This backup is of PostgreSQL: set SQLALCHEMY_DATABASE_URI to a database of PostgreSQL.")
    from noxchat.hosting import postgresql_tools

    with db.engine.connect() as connection:
        version = postgresql_tools.server_version(connection)
    with postgresql_tools.scratch_database(db.engine) as engine:
        progress("loading the database")
        postgresql_tools.restore(engine.url, file, version)
        with engine.connect() as connection:
            connection.exec_driver_sql("SET timezone = 'UTC'")
            check_tables(connection, manifest, progress)


def check_tables(connection: Connection, manifest: Manifest, progress: Progress):
    """Check that tables have what the manifest says. Raises HostingError."""
    found = tables.summarize(connection, tables.list_tables(connection), progress=progress)
    if problems := tables.compare(manifest.tables, found):
        raise HostingError(f"The backup is not what it should be: {'; '.join(problems[:3])}.")
