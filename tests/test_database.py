"""Transactions: those that read, and those that write."""

import threading

import pytest
from sqlalchemy import func, select, text

from noxchat.database import WriterQueue, begin_read, begin_write
from noxchat.extensions import db
from noxchat.models import User
from tests.conftest import make_person, wait_until


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


@pytest.mark.parametrize(("value", "pragma"), [("NORMAL", 1), ("FULL", 2)])
def test_sqlite_synchronous_is_a_setting(make_app, value, pragma):
    with make_app(SQLITE_SYNCHRONOUS=value).app_context():
        assert db.session.scalar(text("PRAGMA synchronous")) == pragma


def test_writers_on_sqlite_come_in_the_order_of_their_arrival():
    writers, order, threads = WriterQueue(), [], []
    assert writers.enter("first", 0)

    def write(number):
        assert writers.enter(number, 20)
        order.append(number)
        writers.leave(number)

    for number in range(8):
        threads.append(threading.Thread(target=write, args=(number,)))
        threads[-1].start()
        wait_until(lambda: len(writers._waiting) == number + 1)  # noqa: B023
    assert not writers.enter("impatient", 0.05)
    writers.leave("impatient")  # which changes nothing
    assert order == []
    writers.leave("first")
    for thread in threads:
        thread.join()
    assert order == list(range(8)) and writers.enter("first", 0)
