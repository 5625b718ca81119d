"""Whether the tables are those of this version. Alembic, which changes them, is imported only then: it takes 8 MB."""

import os
import re
from functools import cache
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import Connection, Engine, inspect, text

from noxchat.extensions import db

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
REVISION = re.compile(r"^(down_)?revision = '(\w+)'$", re.MULTILINE)


class Migrate:
    """Stands in for Flask-Migrate's extension until something is asked of it."""

    def __init__(self, app: Flask, path: Path):
        self.app, self.path = app, path

    def __getattr__(self, name: str):
        self.load()
        return getattr(self.app.extensions["migrate"], name)

    def load(self):
        """Set up Flask-Migrate, which adds `flask db`."""
        from flask_migrate import Migrate

        class Migrations(Migrate):
            """For an installation whose path contains %, which Alembic's config would replace."""

            def get_config(self, directory=None, x_arg=None, opts=None):
                path = str(directory or self.directory)
                config = super().get_config(path.replace("%", "%%"), x_arg, opts)
                config.config_file_name = os.path.join(path, "alembic.ini")
                return config

        Migrations(self.app, db, directory=str(self.path), render_as_batch=True)


def init_app(app: Flask):
    """Set up the migrations."""
    app.extensions["migrate"] = Migrate(app, MIGRATIONS)


@cache
def read_revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Return all revisions that this version knows, and the last ones, normally one. Reads them once."""
    sources = [path.read_text() for path in (MIGRATIONS / "versions").glob("*.py")]
    found = [match for source in sources for match in REVISION.findall(source)]
    known = frozenset(revision for down, revision in found if not down)
    return known, known - {revision for down, revision in found if down}


def is_known(revision: str) -> bool:
    """Tell whether this version has a migration; otherwise it is of a newer one."""
    return revision in read_revisions()[0]


def current_revision(connection: Connection) -> str:
    """Return the revision of the tables in a database; empty when there is none. Raises SQLAlchemyError."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return ",".join(sorted(connection.scalars(text("SELECT version_num FROM alembic_version"))))


def is_current() -> bool:
    """Tell whether the tables are those of the newest migration, and complete. Raises SQLAlchemyError."""
    connection = db.session.connection()
    return {current_revision(connection)} == read_revisions()[1] and not is_incomplete(connection)


# A table that is there while another database is copied into this one.
INCOMPLETE = "incomplete_copy"


def is_incomplete(connection: Connection) -> bool:
    """Tell whether another database was being copied into this one, and that was interrupted."""
    return inspect(connection).has_table(INCOMPLETE)


def upgrade(engine: Engine):
    """Bring the tables of a database up to date. Raises DBAPIError, and CommandError if they are of a newer version."""
    from alembic import command

    config = current_app.extensions["migrate"].migrate.get_config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")
