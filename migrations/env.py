"""Runs the migrations on the application's own engine, one transaction each: `flask --app main db …`."""

from alembic import context
from flask import current_app

from noxchat.database import UTCDateTime, unhurried
from noxchat.search import is_index

migrate = current_app.extensions["migrate"]
db = migrate.db


def skip_empty(_context, _revision, directives):
    """Make no migration file when the tables already are as the models say."""
    if getattr(context.config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


def render(kind, thing, _autogenerate):
    """Write our UTC type as the plain type underneath: a migration stays what it was when the code moves on."""
    if kind == "type" and isinstance(thing, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def is_ours(_thing, name, _kind, _reflected, _compared_to):
    """Leave alone what the search makes for itself, which differs from database to database."""
    return not is_index(name)


def options(connection) -> dict:
    """Return Alembic's options. SQLite changes a table by writing it anew (batch)."""
    return {
        "connection": connection,
        "target_metadata": db.metadata,
        "process_revision_directives": skip_empty,
        "compare_type": True,
        "render_item": render,
        "include_object": is_ours,
        "transaction_per_migration": True,
        **migrate.configure_args,
    }


with db.engine.connect() as connection:
    if connection.dialect.name == "sqlite":
        # A table that is written anew is dropped in between, which must not take along what refers to it.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.commit()
    with unhurried(connection):
        connection.commit()
        context.configure(**options(connection))
        with context.begin_transaction():
            context.run_migrations()
    connection.commit()
    if connection.dialect.name == "sqlite":
        connection.commit()
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
