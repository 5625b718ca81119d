"""rename pauses to request_cooldowns and outbox to email_queue, which also takes bare addresses; clearer column names"""

import sqlalchemy as sa
from alembic import op

revision = '7d2e4f60b8a1'
down_revision = '5b0c7e91d3fa'
branch_labels = None
depends_on = None


def upgrade():
    # Made anew rather than renamed, so that constraints and indexes are named after their table on both databases.
    create_cooldowns('request_cooldowns')
    op.execute("INSERT INTO request_cooldowns (sender_id, receiver_id, until) SELECT sender_id, receiver_id, until FROM pauses")
    op.drop_table('pauses')

    create_email_queue('email_queue', with_address=True)
    op.execute("INSERT INTO email_queue (user_id, kind, language, tries, next_try_at, created_at)"
               " SELECT user_id, CASE kind WHEN 'reset' THEN 'password_reset' ELSE 'address_taken' END,"
               " language, tries, next_try_at, created_at FROM outbox ORDER BY id")
    op.drop_table('outbox')

    op.execute("ALTER TABLE events RENAME COLUMN about TO data")
    op.execute("ALTER TABLE search_indexes RENAME COLUMN place TO installation_id")


def downgrade():
    op.execute("ALTER TABLE search_indexes RENAME COLUMN installation_id TO place")
    op.execute("ALTER TABLE events RENAME COLUMN data TO about")

    create_email_queue('outbox', with_address=False)
    # The older version can only write to accounts.
    op.execute("INSERT INTO outbox (user_id, kind, language, tries, next_try_at, created_at)"
               " SELECT user_id, CASE kind WHEN 'password_reset' THEN 'reset' ELSE 'taken' END,"
               " language, tries, next_try_at, created_at FROM email_queue"
               " WHERE kind IN ('password_reset', 'address_taken') AND user_id IS NOT NULL AND address IS NULL ORDER BY id")
    op.drop_table('email_queue')

    create_cooldowns('pauses')
    op.execute("INSERT INTO pauses (sender_id, receiver_id, until) SELECT sender_id, receiver_id, until FROM request_cooldowns")
    op.drop_table('request_cooldowns')


def create_cooldowns(table):
    op.create_table(table,
    sa.Column('sender_id', sa.Integer(), nullable=False),
    sa.Column('receiver_id', sa.Integer(), nullable=False),
    sa.Column('until', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('sender_id <> receiver_id', name=op.f(f'ck_{table}_not_oneself')),
    sa.ForeignKeyConstraint(['receiver_id'], ['users.id'], name=op.f(f'fk_{table}_receiver_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['sender_id'], ['users.id'], name=op.f(f'fk_{table}_sender_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('sender_id', 'receiver_id', name=op.f(f'pk_{table}'))
    )
    op.create_index(op.f(f'ix_{table}_receiver_id'), table, ['receiver_id'])


def create_email_queue(table, with_address):
    recipient = [
    sa.Column('address', sa.String(length=254), nullable=True),
    sa.CheckConstraint('user_id IS NOT NULL OR address IS NOT NULL', name=op.f(f'ck_{table}_recipient')),
    ] if with_address else []
    op.create_table(table,
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('user_id', sa.Integer(), nullable=with_address),
    *recipient,
    sa.Column('kind', sa.String(length=32), nullable=False),
    sa.Column('language', sa.String(length=2), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('next_try_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f(f'fk_{table}_user_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f(f'pk_{table}'))
    )
    op.create_index(op.f(f'ix_{table}_next_try_at'), table, ['next_try_at'])
    op.create_index(op.f(f'ix_{table}_user_id'), table, ['user_id'])
