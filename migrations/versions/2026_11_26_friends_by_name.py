"""friends by name: each row has the friend's search text, which its foreign key keeps up to date"""

import sqlalchemy as sa
from alembic import op

revision = 'c7f1d2a6b930'
down_revision = 'e4a17c90d2b6'
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation='C'), 'postgresql')
BY_ID = {'columns': ['friend_id'], 'refcolumns': ['users.id'], 'name': 'fk_friends_friend_id'}
BY_TEXT = {
    'columns': ['friend_id', 'search_text'],
    'refcolumns': ['users.id', 'users.search_text'],
    'name': 'fk_friends_friend_id_search_text',
    'onupdate': 'CASCADE',
}


def friends(friend):
    """Return the table, which SQLite has to create anew. friend: the arguments of the foreign key to the friend."""
    return sa.Table(
        'friends',
        sa.MetaData(),
        sa.Column('user_id', sa.Integer(), nullable=False),
        sa.Column('friend_id', sa.Integer(), nullable=False),
        sa.Column('since', sa.DateTime(timezone=True), nullable=False),
        sa.Column('search_text', TEXT, nullable=True),
        sa.CheckConstraint('user_id <> friend_id', name=op.f('ck_friends_not_oneself')),
        sa.ForeignKeyConstraint(
            ['friend_id', 'user_id'],
            ['friends.user_id', 'friends.friend_id'],
            name=op.f('fk_friends_friend_id_user_id'),
            ondelete='CASCADE',
            initially='DEFERRED',
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_friends_user_id'), ondelete='CASCADE'),
        sa.ForeignKeyConstraint(**{**friend, 'name': op.f(friend['name'])}, ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('user_id', 'friend_id', name=op.f('pk_friends')),
        sa.Index('ix_friends_friend_id', 'friend_id'),
    )


def upgrade():
    op.drop_index('ix_users_search_text', 'users')
    op.create_index('ix_users_search_text', 'users', ['search_text', 'id'], unique=True)
    op.add_column('friends', sa.Column('search_text', TEXT, nullable=True))
    op.execute(
        'UPDATE friends SET search_text = (SELECT users.search_text FROM users WHERE users.id = friends.friend_id)'
    )
    with op.batch_alter_table('friends', copy_from=friends(BY_ID)) as batch:
        batch.alter_column('search_text', existing_type=TEXT, nullable=False)
        batch.drop_constraint(op.f('fk_friends_friend_id'), type_='foreignkey')
        batch.create_foreign_key(
            op.f('fk_friends_friend_id_search_text'),
            'users',
            ['friend_id', 'search_text'],
            ['id', 'search_text'],
            onupdate='CASCADE',
            ondelete='CASCADE',
        )
    op.create_index('ix_friends_search_text', 'friends', ['user_id', 'search_text', 'friend_id'])


def downgrade():
    op.drop_index('ix_friends_search_text', 'friends')
    with op.batch_alter_table('friends', copy_from=friends(BY_TEXT)) as batch:
        batch.drop_constraint(op.f('fk_friends_friend_id_search_text'), type_='foreignkey')
        batch.create_foreign_key(op.f('fk_friends_friend_id'), 'users', ['friend_id'], ['id'], ondelete='CASCADE')
        batch.drop_column('search_text')
    op.drop_index('ix_users_search_text', 'users')
    op.create_index('ix_users_search_text', 'users', ['search_text', 'id'])
