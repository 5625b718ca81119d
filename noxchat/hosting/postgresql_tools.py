"""pg_dump and pg_restore, which come with PostgreSQL."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from noxchat.hosting import HostingError

DEBIAN_FOLDERS = "/usr/lib/postgresql"
ASIDE = "before_restore_"  # the beginning of the names of schemas with what a restore has moved aside


def find(program: str, server_version: int) -> str:
    """Return the path of pg_dump or pg_restore of a fitting version. Raises HostingError.

    server_version: the major version of the server. Only the same or a newer one can read it
    (https://www.postgresql.org/docs/current/app-pgdump.html).
    """
    candidates = [path for path in [shutil.which(program)] if path]
    candidates += map(str, sorted(Path(DEBIAN_FOLDERS).glob(f"*/bin/{program}")))
    for candidate in candidates:
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        version = re.search(r"\) (\d+)", done.stdout)
        if version and int(version[1]) >= server_version:
            return candidate
    raise HostingError(
        f"{program} {server_version} or newer is needed: apt-get install postgresql-client-{server_version}."
    )


def server_version(connection: Connection) -> int:
    """Return the major version of a PostgreSQL server."""
    return int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000


def run(program: str, url: URL, *arguments: str, version: int):
    """Run pg_dump or pg_restore on a database. The password is not among the arguments, which everybody can see.

    version: of the server. Raises HostingError with the last line that it has printed.
    """
    parts = dict(url.translate_connect_args(username="user", database="dbname"))
    password = parts.pop("password", None)
    conninfo = make_conninfo(**parts, **{key: value for key, value in url.query.items() if isinstance(value, str)})
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    command = [find(program, version), "--dbname", conninfo, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise HostingError(f"{program} failed: {lines[0] if lines else done.returncode}.")


def dump(connection: Connection, url: URL, snapshot: str, file: Path):
    """Write a database to a file, as a snapshot that a transaction has exported."""
    options = ["--format=custom", "--compress=0", "--no-owner", "--no-privileges", f"--exclude-schema={ASIDE}*"]
    run("pg_dump", url, *options, f"--snapshot={snapshot}", f"--file={file}", version=server_version(connection))


def restore(url: URL, file: Path, version: int):
    """Load a file of pg_dump into an empty database, as a whole or not at all. Raises HostingError."""
    options = ["--no-owner", "--no-privileges", "--no-comments", "--single-transaction", "--exit-on-error"]
    run("pg_restore", url, *options, str(file), version=version)


def move_aside(engine: Engine, schema: str):
    """Move tables and functions out of the way, into a new schema, in one transaction. Raises DBAPIError.

    Not the whole schema, to which the extension belongs.
    """
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    functions = (
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace"
        " AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = p.oid AND deptype = 'e')"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        for name in connection.exec_driver_sql(tables).scalars().all():
            connection.exec_driver_sql(f'ALTER TABLE "{name}" SET SCHEMA {schema}')
        for signature in connection.exec_driver_sql(functions).scalars().all():
            connection.exec_driver_sql(f"ALTER FUNCTION {signature} SET SCHEMA {schema}")


@contextmanager
def scratch_database(engine: Engine) -> Iterator[Engine]:
    """Create an empty database on the same server for a with statement. Raises HostingError."""
    name = f"noxchat_scratch_{token_hex(4)}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            encoding = "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' TEMPLATE template0"
            connection.exec_driver_sql(f"CREATE DATABASE {name} {encoding}")
        except DBAPIError as error:
            raise HostingError(
                "To try the backup, a database has to be created beside the real one: have its owner run"
                f" ALTER ROLE {engine.url.username or 'noxchat'} CREATEDB. ({str(error.orig).strip()})"
            ) from error
        scratch = create_engine(engine.url.set(database=name), hide_parameters=True)
        try:
            yield scratch
        finally:
            scratch.dispose()
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
