"""addresses that are confirmed, changes of them that can be undone; invitations"""

import sqlalchemy as sa
from alembic import op

revision = 'a90e4c5d17b8'
down_revision = 'c7f1d2a6b930'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
EMAIL = sa.String(length=254)
NONCE = sa.String(length=32)
CONFIRMED = sa.text('email_confirmed_at IS NOT NULL')


class Users:
    """Alters the table of users, which SQLite has to create anew: without its triggers and the last id it gave."""

    def __enter__(self):
        self.bind = op.get_bind()
        self.is_sqlite = self.bind.dialect.name == 'sqlite'
        if self.is_sqlite:
            self.triggers = self.ask("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'users'")
            self.last_ids = self.ask("SELECT seq FROM sqlite_sequence WHERE name = 'users'")
        self.batch = op.batch_alter_table('users', table_kwargs={'sqlite_autoincrement': True})
        return self.batch.__enter__()

    def __exit__(self, *error):
        self.batch.__exit__(*error)
        if self.is_sqlite:
            for trigger in self.triggers:
                self.bind.exec_driver_sql(trigger)
            for last_id in self.last_ids:
                self.bind.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'users'")
                self.bind.exec_driver_sql('INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)', ('users', last_id))

    def ask(self, statement):
        return list(self.bind.exec_driver_sql(statement).scalars())


def upgrade():
    with Users() as batch:
        batch.add_column(sa.Column('email_confirmed_at', TIME, nullable=True))
        batch.add_column(sa.Column('pending_email', EMAIL, nullable=True))
        batch.add_column(sa.Column('email_nonce', NONCE, nullable=True))
        batch.drop_constraint(op.f('uq_users_email_key'), type_='unique')
        batch.create_unique_constraint(op.f('uq_users_email_nonce'), ['email_nonce'])
        batch.create_check_constraint(
            op.f('ck_users_pending_email_length'), 'length(pending_email) BETWEEN 3 AND 254'
        )
    # But not those that a downgrade made up.
    op.execute("UPDATE users SET email_confirmed_at = created_at WHERE email_key <> 'id-' || id || '@'")
    op.create_index('ix_users_email_key', 'users', ['email_key'])
    op.create_index(
        'uq_users_confirmed_email_key',
        'users',
        ['email_key'],
        unique=True,
        sqlite_where=CONFIRMED,
        postgresql_where=CONFIRMED,
    )
    op.create_table(
        'email_changes',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('user_id', sa.Integer(), nullable=False),
        sa.Column('former_email', EMAIL, nullable=False),
        sa.Column('nonce', NONCE, nullable=False),
        sa.Column('changed_at', TIME, nullable=False),
        sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_email_changes_user_id'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_email_changes')),
        sa.UniqueConstraint('nonce', name=op.f('uq_email_changes_nonce')),
        sqlite_autoincrement=True,
    )
    op.create_index('ix_email_changes_user_id', 'email_changes', ['user_id'])
    op.create_table(
        'invitations',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('inviter_id', sa.Integer(), nullable=True),
        sa.Column('code', sa.String(length=16), nullable=False),
        sa.Column('max_uses', sa.Integer(), nullable=False),
        sa.Column('uses', sa.Integer(), nullable=False),
        sa.Column('created_at', TIME, nullable=False),
        sa.Column('expires_at', TIME, nullable=False),
        sa.CheckConstraint('uses BETWEEN 0 AND max_uses', name=op.f('ck_invitations_uses')),
        sa.ForeignKeyConstraint(
            ['inviter_id'], ['users.id'], name=op.f('fk_invitations_inviter_id'), ondelete='CASCADE'
        ),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_invitations')),
        sa.UniqueConstraint('code', name=op.f('uq_invitations_code')),
        sqlite_autoincrement=True,
    )
    op.create_index('ix_invitations_inviter_id', 'invitations', ['inviter_id'])


def downgrade():
    op.drop_table('invitations')
    op.drop_table('email_changes')
    op.drop_index('uq_users_confirmed_email_key', 'users')
    op.drop_index('ix_users_email_key', 'users')
    # The older version knows one account for an address: the one that confirmed it, or gave it first. The others log in
    # by their Public ID.
    op.execute("""
        UPDATE users SET email_key = 'id-' || id || '@' WHERE EXISTS (
            SELECT 1 FROM users AS other WHERE other.email_key = users.email_key AND other.id != users.id AND (
                other.email_confirmed_at IS NOT NULL
                OR users.email_confirmed_at IS NULL AND other.id < users.id
            )
        )
    """)
    op.execute("UPDATE users SET email = email_key WHERE email_key = 'id-' || id || '@'")
    with Users() as batch:
        batch.drop_constraint(op.f('ck_users_pending_email_length'), type_='check')
        batch.drop_constraint(op.f('uq_users_email_nonce'), type_='unique')
        batch.drop_column('email_nonce')
        batch.drop_column('pending_email')
        batch.drop_column('email_confirmed_at')
        batch.create_unique_constraint(op.f('uq_users_email_key'), ['email_key'])
