"""The migrations: they match the models, and can be reverted."""

import flask_migrate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from noxchat.extensions import db
from noxchat.search import is_search_index
from tests.conftest import DATABASES


@pytest.fixture(params=DATABASES)
def empty_app(request, make_app, tmp_path):
    """An application with an empty database, without tables."""
    if request.param == "sqlite":
        return make_app(uri=f"sqlite:///{tmp_path}/empty.db")
    postgres = request.getfixturevalue("postgres")
    postgres.execute("DROP DATABASE IF EXISTS nox_empty")
    postgres.execute("CREATE DATABASE nox_empty")
    return make_app(uri=postgres.uri("nox_empty"))


def test_migrations_match_models(empty_app):
    with empty_app.app_context():
        flask_migrate.upgrade()
        with db.engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={"compare_type": True, "include_object": lambda _object, name, *_: not is_search_index(name)},
            )
            assert compare_metadata(context, db.metadata) == []


def test_migrations_can_be_reverted_and_applied_again(empty_app):
    with empty_app.app_context():
        flask_migrate.upgrade()
        tables = set(inspect(db.engine).get_table_names())
        assert {"users", "profiles", "friends", "friend_requests", "sessions", "email_queue"} <= tables
        flask_migrate.downgrade(revision="base")
        assert inspect(db.engine).get_table_names() == ["alembic_version"]
        flask_migrate.upgrade()
        assert set(inspect(db.engine).get_table_names()) == tables


def test_every_foreign_key_defines_on_delete():
    for table in db.metadata.tables.values():
        for key in table.foreign_key_constraints:
            assert key.ondelete, f"{table.name}: {key.name}"
