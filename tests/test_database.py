"""Transactions: those that read, and those that write."""

from sqlalchemy import func, select, text

from noxchat.database import begin_read, begin_write
from noxchat.extensions import db
from noxchat.models import User
from tests.conftest import make_person


def test_reading_on_postgresql_begins_no_transaction(make_app):
    app = make_app("postgresql")
    with app.app_context():
        begin_read(db.session)
        connection = db.session.connection().connection.driver_connection
        assert connection.autocommit
        db.session.scalar(select(func.count()).select_from(User))
        assert connection.info.transaction_status == 0  # idle
        db.session.commit()
        assert not db.session.connection().connection.driver_connection.autocommit
        begin_read(db.session)  # in the middle of a transaction
        assert db.session.connection().connection.driver_connection.autocommit


def test_write_after_reading_is_a_transaction(any_app):
    alice = make_person(any_app, "Alice")
    with any_app.app_context():
        begin_read(db.session)
        assert db.session.scalar(select(func.count()).select_from(User)) == 1
        begin_write(db.session)
        db.session.execute(text("DELETE FROM users"))
        db.session.rollback()
        assert db.session.get(User, alice.id) is not None
