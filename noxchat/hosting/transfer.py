"""Copying everything to another database, from SQLite to PostgreSQL or back. The source is only read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Engine, Table, create_engine, func, insert, inspect, select, text
from sqlalchemy.engine import make_url

from noxchat import schema
from noxchat.database import configure_engine, engine_options, without_statement_timeout
from noxchat.extensions import db
from noxchat.files import give_to_owner, sync_folder
from noxchat.hosting import HostingError, tables, translated_errors
from noxchat.hosting.restore import without_server
from noxchat.search.outbox import search_indexes, search_outbox

# What is about an index of Elasticsearch, which is built anew from the new database.
NOT_COPIED = {search_indexes.name, search_outbox.name}
SECONDS = 10  # the statement timeout of the connections to the target, which is lifted for what takes long

Progress = Callable[[str], None]


def copy_to(uri: str, progress: Progress) -> dict[str, int]:
    """Copy the database to another one, which has to be empty. Returns the number of rows of each table.

    uri: as of SQLALCHEMY_DATABASE_URI, valid. What an interrupted copy has left is removed first. Raises HostingError.
    """
    if not schema.is_current():
        raise HostingError("The database has the tables of another version: run flask --app main db upgrade first.")
    db.session.remove()
    with translated_errors("Not copied"), without_server(), _prepared_target(uri, progress) as engine:
        _copy(engine, progress)
        return _compare(engine, progress)


@contextmanager
def _prepared_target(uri: str, progress: Progress) -> Iterator[Engine]:
    """Create the tables in the target for a with statement, after which it counts as complete. Raises HostingError."""
    url = make_url(uri)
    if url.get_backend_name() == db.engine.dialect.name == "postgresql":
        raise HostingError("This is PostgreSQL already: move it with flask backup and flask restore.")
    if url.get_backend_name() == db.engine.dialect.name:
        raise HostingError("This is SQLite already: move it with flask backup and flask restore.")
    prepared = _prepared_sqlite if url.get_backend_name() == "sqlite" else _prepared_postgresql
    with prepared(uri, progress) as engine:
        yield engine


def _engine(uri: str) -> Engine:
    engine = create_engine(uri, **engine_options(uri, SECONDS))
    configure_engine(engine)
    return engine


@contextmanager
def _prepared_sqlite(uri: str, progress: Progress) -> Iterator[Engine]:
    target = Path(str(make_url(uri).database))
    if target.exists():
        raise HostingError(f"{target} is there already: give the name of a new file.")
    temporary = target.with_name(f".{target.name}.part")
    for left in (temporary.with_name(temporary.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")):
        left.unlink(missing_ok=True)
    engine = _engine(f"sqlite:///{temporary}")
    try:
        progress("creating tables")
        schema.upgrade(engine)
        yield engine
        with engine.connect() as connection:
            problems = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            if problems:
                raise HostingError(f"Not copied: {len(problems)} rows refer to others that do not exist.")
    finally:
        engine.dispose()
    give_to_owner(temporary, target.parent)
    temporary.rename(target)
    sync_folder(target.parent)


@contextmanager
def _prepared_postgresql(uri: str, progress: Progress) -> Iterator[Engine]:
    engine = _engine(uri)
    try:
        with engine.begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise HostingError(f"The database has the encoding {encoding}: create it with ENCODING 'UTF8'.")
            if inspect(connection).get_table_names():
                if not schema.is_incomplete(connection):
                    raise HostingError("The database is not empty: create a new one.")
                _drop_tables(connection)
            connection.exec_driver_sql(f"CREATE TABLE {schema.INCOMPLETE} (begun_at timestamptz DEFAULT now())")
        progress("creating tables")
        schema.upgrade(engine)
        yield engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            with without_statement_timeout(connection):
                connection.exec_driver_sql("ANALYZE")
            connection.exec_driver_sql(f"DROP TABLE {schema.INCOMPLETE}")
    finally:
        engine.dispose()


def _drop_tables(connection: Connection):
    """Drop what an interrupted copy has left. For a transaction."""
    for name in inspect(connection).get_table_names():
        connection.exec_driver_sql(f'DROP TABLE "{name}" CASCADE')


def _copied_tables() -> list[Table]:
    """Return the tables to copy, those first to which others refer."""
    return [each for each in db.metadata.sorted_tables if each.name not in NOT_COPIED]


def _written_columns(each: Table) -> list[Column]:
    """Return the columns of a table but those that the database computes."""
    return [column for column in each.columns if column.computed is None]


def _copy(engine: Engine, progress: Progress):
    with _snapshot() as source, engine.connect() as target, without_statement_timeout(target):
        target.commit()
        is_sqlite = target.dialect.name == "sqlite"
        if is_sqlite:  # has no effect within a transaction
            target.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
        with target.begin():
            for each in _copied_tables():
                total = source.scalar(select(func.count()).select_from(each)) or 0
                rows = _with_progress(
                    tables.stream(source, select(*_written_columns(each))), each.name, total, progress
                )
                (_insert if is_sqlite else _copy_into_postgresql)(target, each, rows)
                _set_sequence(source, target, each)
        if is_sqlite:
            target.connection.driver_connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[union-attr]


@contextmanager
def _snapshot() -> Iterator[Connection]:
    """Read the source as of one moment, in a with statement."""
    level = {} if db.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with db.engine.connect().execution_options(**level) as connection, without_statement_timeout(connection):
        connection.rollback()
        yield connection
        connection.rollback()


def _with_progress(rows: Any, name: str, total: int, progress: Progress) -> Iterator[Any]:
    for number, row in enumerate(rows):
        if number % tables.BATCH_SIZE == 0:
            progress(f"copying {name}: {number:,} of {total:,}")
        yield row


def _insert(target: Connection, each: Table, rows: Iterator[Any]):
    for batch in batched(rows):
        target.execute(insert(each), [dict(row._mapping) for row in batch])


def batched(rows: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield rows in lists of BATCH_SIZE."""
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == tables.BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch


def _copy_into_postgresql(target: Connection, each: Table, rows: Iterator[Any]):
    import psycopg

    names = ", ".join(f'"{column.name}"' for column in _written_columns(each))
    cursor: Any = target.connection.cursor()
    try:
        with cursor.copy(f'COPY "{each.name}" ({names}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise HostingError(f"Not copied: the database says {str(error).strip()}.") from error


def _set_sequence(source: Connection, target: Connection, each: Table):
    """Have new rows get higher ids than any row ever had: streams of events resume by them, for example."""
    id_column = each.columns.get("id")
    if id_column is None or id_column.type.python_type is not int:
        return
    last = max(_sequence(source, each), source.scalar(select(func.coalesce(func.max(id_column), 0))) or 0)
    if target.dialect.name == "postgresql":
        sequence = text("SELECT setval(pg_get_serial_sequence(:name, 'id'), greatest(:last, 1), :last > 0)")
        target.execute(sequence, {"name": each.name, "last": last})
    elif each.dialect_options["sqlite"]["autoincrement"]:
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (each.name,))
        target.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (each.name, last))


def _sequence(source: Connection, each: Table) -> int:
    """Return the highest id that a table has given, also to rows that are deleted by now; 0 if that is not known."""
    if source.dialect.name == "postgresql":
        last = text("SELECT pg_sequence_last_value(pg_get_serial_sequence(:name, 'id'))")
        return source.scalar(last, {"name": each.name}) or 0
    if not inspect(source).has_table("sqlite_sequence"):
        return 0
    return source.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": each.name}) or 0


def _compare(engine: Engine, progress: Progress) -> dict[str, int]:
    """Compare both databases by counts and checksums. Raises HostingError."""
    by_name = {each.name: each for each in _copied_tables()}

    def rows_of(_connection: Connection, name: str):
        return select(by_name[name])

    with _snapshot() as source:
        expected = tables.summarize(source, by_name, rows_of, progress)
    with engine.connect() as target, without_statement_timeout(target):
        target.commit()
        found = tables.summarize(target, by_name, rows_of, progress)
    if problems := tables.compare(expected, found):
        raise HostingError(f"The copy differs: {'; '.join(problems[:3])}.")
    return {name: summary[0] for name, summary in found.items()}
