"""Runs the migrations on the application's engine, one transaction each: `flask --app main db …`."""

from alembic import context
from flask import current_app

from noxchat.database import UTCDateTime, without_statement_timeout
from noxchat.search import is_search_index

migrate = current_app.extensions["migrate"]
db = migrate.db


def skip_empty(_context, _revision, directives):
    """Write no migration when the tables already match the models."""
    if getattr(context.config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


def render(kind, thing, _autogenerate):
    """Render UTCDateTime as a plain type, so that migrations do not depend on code that may change."""
    if kind == "type" and isinstance(thing, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def is_ours(_thing, name, _kind, _reflected, _compared_to):
    """Ignore the indexes of search engines, which differ between databases."""
    return not is_search_index(name)


def options(connection) -> dict:
    """Return Alembic's options."""
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


def set_foreign_keys(connection, value: str):
    """Enforce SQLite's foreign keys or not. That has no effect within a transaction, as SQLAlchemy would begin one."""
    if connection.dialect.name == "sqlite":
        connection.connection.driver_connection.execute(f"PRAGMA foreign_keys = {value}")


with context.config.attributes.get("engine", db.engine).connect() as connection:
    # A batch migration drops the table and creates it again, which must not delete the rows that refer to it.
    set_foreign_keys(connection, "OFF")
    with without_statement_timeout(connection):
        connection.commit()
        context.configure(**options(connection))
        with context.begin_transaction():
            context.run_migrations()
    connection.commit()
    set_foreign_keys(connection, "ON")
