"""pg_dump and pg_restore, which come with PostgreSQL."""

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from noxchat.hosting import ASIDE, HostingError

DEBIAN_FOLDERS = "/usr/lib/postgresql"


def find(program: str, server_version: int) -> str:
    """Return the path of pg_dump or pg_restore of a fitting version. Raises HostingError.

    server_version: the major version of the server. Only the same or a newer one can read it
    (https://www.postgresql.org/docs/current/app-pgdump.html).
    """
    found: dict[int, str] = {}
    for candidate in filter(None, [shutil.which(program), *map(str, Path(DEBIAN_FOLDERS).glob(f"*/bin/{program}"))]):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        if version := re.search(r"\) (\d+)", done.stdout):
            found.setdefault(int(version[1]), candidate)
    fitting = [version for version in found if version >= server_version]
    if not fitting:
        package = f"postgresql-client-{server_version}"
        raise HostingError(f"{program} {server_version} or newer is needed: apt-get install {package}.")
    return found[min(fitting)]  # a newer pg_restore may use settings that the server does not know


def server_version(connection: Connection) -> int:
    """Return the major version of a PostgreSQL server."""
    return int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000


def run(program: str, url: URL, *arguments: str, version: int):
    """Run pg_dump or pg_restore on a database. The password is not among the arguments, which everybody can see.

    version: of the server. Raises HostingError with the last line that it has printed.
    """
    parts = dict(url.translate_connect_args(username="user", database="dbname"))
    parts |= {key: value for key, value in url.query.items() if isinstance(value, str)}
    password = parts.pop("password", None)
    conninfo = make_conninfo(**parts)
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


def check_dump(file: Path, version: int):
    """Check that there is a pg_restore that can read a dump. version: of the server. Raises HostingError."""
    command = [find("pg_restore", version), "--list", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise HostingError(f"pg_restore cannot read this backup: {done.stderr.strip()}.")


def may_create_schema(connection: Connection) -> bool:
    """Tell whether the role may create a schema."""
    return connection.exec_driver_sql("SELECT has_database_privilege(current_database(), 'CREATE')").scalar_one()


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
        own = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        for name in connection.exec_driver_sql(tables).scalars().all():
            connection.exec_driver_sql(f'ALTER TABLE "{name}" SET SCHEMA {schema}')
        for signature in connection.exec_driver_sql(functions).scalars().all():
            connection.exec_driver_sql(f"ALTER FUNCTION {signature} SET SCHEMA {schema}")
        if own != "public":  # which is part of the dump then
            connection.exec_driver_sql(f'DROP SCHEMA "{own}"')


@contextmanager
def scratch_database(engine: Engine) -> Iterator[Engine]:
    """Create an empty database on the same server for a with statement. Raises HostingError."""
    # The same each time, so that one that a killed process has left is replaced.
    name = f"noxchat_scratch_{zlib.crc32(str(engine.url.database).encode()):x}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            encoding = "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' TEMPLATE template0"
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
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
