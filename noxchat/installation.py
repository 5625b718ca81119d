"""The id of this installation, which tells it from others on the same host name or in the same Elasticsearch.

It is stored in the database: all machines share it, and a restored copy keeps it.
"""

import secrets

from sqlalchemy import CheckConstraint, Column, Integer, String, Table, select, text

from noxchat.extensions import db

# One row. key: always 1, so that there cannot be a second one.
installation = Table(
    "installation",
    db.metadata,
    Column("key", Integer, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False),
    CheckConstraint("key = 1", "key"),
)


def find_id() -> str | None:
    """Return the id; None in a new database, which has none yet."""
    return db.session.scalar(select(installation.c.id))


def create_id() -> str:
    """Return the id, created unless another process was faster. For a transaction that may write."""
    insert = text("INSERT INTO installation (key, id) VALUES (1, :id) ON CONFLICT DO NOTHING")
    db.session.execute(insert, {"id": secrets.token_hex(8)})
    return db.session.scalars(select(installation.c.id)).one()
