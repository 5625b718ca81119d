"""conversations, their members and their messages; who sees typing, and what was read"""

import sqlalchemy as sa
from alembic import op

revision = '4e8a17d05c6f'
down_revision = '7f2c5b9ad013'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
BIG = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
BY_CODE_POINTS = sa.Text().with_variant(sa.Text(collation='C'), 'postgresql')


def where(column):
    condition = sa.text(f'{column} IS NOT NULL')
    return {'sqlite_where': condition, 'postgresql_where': condition}


def upgrade():
    op.create_table(
        'conversations',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('kind', sa.String(length=6), nullable=False),
        sa.Column('low_id', sa.Integer(), nullable=True),
        sa.Column('high_id', sa.Integer(), nullable=True),
        sa.Column('title', sa.String(length=60), nullable=False),
        sa.Column('search_text', BY_CODE_POINTS, nullable=False),
        sa.Column('owner_id', sa.Integer(), nullable=True),
        sa.Column('version', BIG, nullable=False),
        sa.Column('last_message_id', BIG, nullable=False),
        sa.Column('last_at', TIME, nullable=False),
        sa.Column('changed_at', TIME, nullable=False),
        sa.CheckConstraint("(kind = 'group') = (length(title) BETWEEN 1 AND 60)", name=op.f('ck_conversations_title')),
        sa.CheckConstraint(
            "kind = 'direct' OR (low_id IS NULL AND high_id IS NULL)", name=op.f('ck_conversations_pair')
        ),
        sa.CheckConstraint("kind = 'group' OR owner_id IS NULL", name=op.f('ck_conversations_owner')),
        sa.CheckConstraint("kind IN ('direct', 'group')", name=op.f('ck_conversations_kind')),
        sa.CheckConstraint('low_id < high_id', name=op.f('ck_conversations_pair_order')),
        sa.ForeignKeyConstraint(['high_id'], ['users.id'], name=op.f('fk_conversations_high_id'), ondelete='SET NULL'),
        sa.ForeignKeyConstraint(['low_id'], ['users.id'], name=op.f('fk_conversations_low_id'), ondelete='SET NULL'),
        sa.ForeignKeyConstraint(
            ['owner_id'], ['users.id'], name=op.f('fk_conversations_owner_id'), ondelete='SET NULL'
        ),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_conversations')),
        sa.UniqueConstraint('low_id', 'high_id', name=op.f('uq_conversations_low_id_high_id')),
        sqlite_autoincrement=True,
    )
    op.create_index('ix_conversations_changed_at', 'conversations', ['changed_at'])
    op.create_index('ix_conversations_high_id', 'conversations', ['high_id'])
    op.create_index('ix_conversations_owner_id', 'conversations', ['owner_id'])

    op.create_table(
        'members',
        sa.Column('user_id', sa.Integer(), nullable=False),
        sa.Column('conversation_id', sa.Integer(), nullable=False),
        sa.Column('joined_after', BIG, nullable=False),
        sa.Column('read_up_to', BIG, nullable=False),
        sa.Column('shown_up_to', BIG, nullable=False),
        sa.Column('muted_at', TIME, nullable=True),
        sa.Column('left_at', TIME, nullable=True),
        sa.Column('invited_at', TIME, nullable=True),
        sa.Column('draft', sa.Text(), nullable=False),
        sa.Column('draft_revision', BIG, nullable=False),
        sa.CheckConstraint('read_up_to >= joined_after', name=op.f('ck_members_read_up_to')),
        sa.CheckConstraint('left_at IS NOT NULL OR invited_at IS NULL', name=op.f('ck_members_invited')),
        sa.ForeignKeyConstraint(
            ['conversation_id'], ['conversations.id'], name=op.f('fk_members_conversation_id'), ondelete='CASCADE'
        ),
        sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_members_user_id'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('user_id', 'conversation_id', name=op.f('pk_members')),
    )
    op.create_index('ix_members_conversation_id', 'members', ['conversation_id', 'user_id'])

    op.create_table(
        'messages',
        sa.Column('id', BIG, nullable=False),
        sa.Column('conversation_id', sa.Integer(), nullable=False),
        sa.Column('version', BIG, nullable=False),
        sa.Column('kind', sa.String(length=8), nullable=False),
        sa.Column('author_id', sa.Integer(), nullable=True),
        sa.Column('subject_id', sa.Integer(), nullable=True),
        sa.Column('client_id', sa.String(length=64), nullable=True),
        sa.Column('body', sa.Text(), nullable=False),
        sa.Column('reply_to_id', BIG, nullable=True),
        sa.Column('created_at', TIME, nullable=False),
        sa.Column('edited_at', TIME, nullable=True),
        sa.Column('deleted_at', TIME, nullable=True),
        sa.CheckConstraint("(kind = 'text') = (client_id IS NOT NULL)", name=op.f('ck_messages_client_id')),
        sa.CheckConstraint("deleted_at IS NULL OR body = ''", name=op.f('ck_messages_deleted')),
        sa.CheckConstraint(
            "kind IN ('text', 'created', 'added', 'removed', 'left', 'joined', 'renamed', 'owner')",
            name=op.f('ck_messages_kind'),
        ),
        sa.ForeignKeyConstraint(['author_id'], ['users.id'], name=op.f('fk_messages_author_id'), ondelete='SET NULL'),
        sa.ForeignKeyConstraint(
            ['conversation_id', 'reply_to_id'],
            ['messages.conversation_id', 'messages.id'],
            name='fk_messages_reply_to_id',
            ondelete='CASCADE',
        ),
        sa.ForeignKeyConstraint(
            ['conversation_id'], ['conversations.id'], name=op.f('fk_messages_conversation_id'), ondelete='CASCADE'
        ),
        sa.ForeignKeyConstraint(['subject_id'], ['users.id'], name=op.f('fk_messages_subject_id'), ondelete='SET NULL'),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_messages')),
        sa.UniqueConstraint(
            'author_id', 'conversation_id', 'client_id', name=op.f('uq_messages_author_id_conversation_id_client_id')
        ),
        sa.UniqueConstraint('conversation_id', 'id', name=op.f('uq_messages_conversation_id_id')),
        sqlite_autoincrement=True,
    )
    op.create_index('ix_messages_conversation_id_version', 'messages', ['conversation_id', 'version'])
    op.create_index('ix_messages_reply_to_id', 'messages', ['conversation_id', 'reply_to_id'], **where('reply_to_id'))
    op.create_index('ix_messages_subject_id', 'messages', ['subject_id'], **where('subject_id'))

    op.add_column('users', sa.Column('show_typing', sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column('users', sa.Column('show_seen', sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade():
    op.drop_column('users', 'show_seen')
    op.drop_column('users', 'show_typing')
    op.drop_table('messages')
    op.drop_table('members')
    op.drop_table('conversations')
