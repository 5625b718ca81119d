"""search texts and their index, blocks, pauses, events"""

import logging

import sqlalchemy as sa
from alembic import op

from noxchat.search import create_trigram_index, make_search_text, trigram_index_name

revision = 'c3b1d2a94e57'
down_revision = '8fd9e1265c17'
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")
BATCH = 5000


def upgrade():
    op.create_table('blocks',
    sa.Column('blocker_id', sa.Integer(), nullable=False),
    sa.Column('blocked_id', sa.Integer(), nullable=False),
    sa.Column('since', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('blocker_id <> blocked_id', name=op.f('ck_blocks_not_oneself')),
    sa.ForeignKeyConstraint(['blocked_id'], ['users.id'], name=op.f('fk_blocks_blocked_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['blocker_id'], ['users.id'], name=op.f('fk_blocks_blocker_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('blocker_id', 'blocked_id', name=op.f('pk_blocks'))
    )
    op.create_index(op.f('ix_blocks_blocked_id'), 'blocks', ['blocked_id'])
    op.create_index('ix_blocks_since', 'blocks', ['blocker_id', 'since', 'blocked_id'])

    op.create_table('pauses',
    sa.Column('sender_id', sa.Integer(), nullable=False),
    sa.Column('receiver_id', sa.Integer(), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('sender_id <> receiver_id', name=op.f('ck_pauses_not_oneself')),
    sa.ForeignKeyConstraint(['receiver_id'], ['users.id'], name=op.f('fk_pauses_receiver_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['sender_id'], ['users.id'], name=op.f('fk_pauses_sender_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('sender_id', 'receiver_id', name=op.f('pk_pauses'))
    )
    op.create_index(op.f('ix_pauses_receiver_id'), 'pauses', ['receiver_id'])

    op.create_table('events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('user_id', sa.Integer(), nullable=False),
    sa.Column('kind', sa.String(length=32), nullable=False),
    sa.Column('about', sa.String(length=64), nullable=False),
    sa.Column('tab', sa.String(length=32), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_events_user_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_events')),
    sqlite_autoincrement=True
    )
    op.create_index('ix_events_user_id_id', 'events', ['user_id', 'id'])

    op.create_index('ix_friend_requests_sent', 'friend_requests', ['sender_id', 'created_at', 'receiver_id'])
    op.create_index('ix_friend_requests_received', 'friend_requests', ['receiver_id', 'created_at', 'sender_id'])
    op.drop_index('ix_friend_requests_receiver_id', 'friend_requests')

    # Added in place: SQLite's way of writing the table anew would lose its AUTOINCREMENT and its checks.
    by_code_points = sa.Text().with_variant(sa.Text(collation='C'), 'postgresql')
    op.add_column('users', sa.Column('search_text', by_code_points, nullable=False, server_default=''))
    connection = op.get_bind()
    write_texts(connection)
    op.create_index('ix_users_search_text', 'users', ['search_text', 'id'])
    if problem := create_trigram_index(connection, 'users'):
        log.warning(problem)


def write_texts(connection):
    """Give everybody their text, a batch at a time."""
    people = sa.text(
        "SELECT u.id, u.username, p.public_id FROM users u JOIN profiles p ON p.user_id = u.id"
        " WHERE u.id > :last ORDER BY u.id LIMIT :most"
    )
    last = 0
    while rows := connection.execute(people, {"last": last, "most": BATCH}).all():
        connection.execute(
            sa.text("UPDATE users SET search_text = :text WHERE id = :id"),
            [{"id": row.id, "text": make_search_text(row.username, row.public_id)} for row in rows],
        )
        last = rows[-1].id


def downgrade():
    connection = op.get_bind()
    index = trigram_index_name('users')
    if connection.dialect.name == "sqlite":
        for when in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER IF EXISTS {index}_{when}")
        op.execute(f"DROP TABLE IF EXISTS {index}")
    else:
        op.execute(f"DROP INDEX IF EXISTS {index}")
    op.drop_index('ix_users_search_text', 'users')
    op.drop_column('users', 'search_text')
    op.create_index('ix_friend_requests_receiver_id', 'friend_requests', ['receiver_id'])
    op.drop_index('ix_friend_requests_received', 'friend_requests')
    op.drop_index('ix_friend_requests_sent', 'friend_requests')
    op.drop_table('events')
    op.drop_table('pauses')
    op.drop_table('blocks')
