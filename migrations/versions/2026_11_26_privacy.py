"""who sees when somebody is online, and who finds them by name"""

from alembic import op

revision = '7f2c5b9ad013'
down_revision = 'd3b8f0627ce4'
branch_labels = None
depends_on = None


def upgrade():
    # As SQL, since Alembic would recreate the table on SQLite, which can add a column with its constraint.
    op.execute(
        "ALTER TABLE users ADD COLUMN show_presence VARCHAR(7) DEFAULT 'friends' NOT NULL"
        " CONSTRAINT ck_users_show_presence CHECK (show_presence IN ('friends', 'nobody'))"
    )
    op.execute(
        "ALTER TABLE users ADD COLUMN findable VARCHAR(18) DEFAULT 'everybody' NOT NULL"
        " CONSTRAINT ck_users_findable CHECK (findable IN ('everybody', 'friends_of_friends'))"
    )


def downgrade():
    op.drop_column('users', 'findable')
    op.drop_column('users', 'show_presence')
