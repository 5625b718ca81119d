"""Whether the tables are those of this version. Alembic, which changes them, is imported only then: it takes 8 MB."""

import os
import re
from functools import cache
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import inspect, text

from noxchat.extensions import db

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


def init_app(app: Flask, directory: Path):
    """Set up the migrations. directory: that has them."""
    app.extensions["migrate"] = Migrate(app, directory)


@cache
def newest_revisions(directory: Path) -> set[str]:
    """Return the last revisions of the migrations in a directory, normally one."""
    sources = [path.read_text() for path in (directory / "versions").glob("*.py")]
    found = [match for source in sources for match in REVISION.findall(source)]
    return {revision for down, revision in found if not down} - {revision for down, revision in found if down}


def is_current() -> bool:
    """Tell whether the tables are those of the newest migration. Raises SQLAlchemyError."""
    connection = db.session.connection()
    if not inspect(connection).has_table("alembic_version"):
        return False
    current = set(db.session.scalars(text("SELECT version_num FROM alembic_version")))
    return current == newest_revisions(Path(current_app.root_path).parent / "migrations")
