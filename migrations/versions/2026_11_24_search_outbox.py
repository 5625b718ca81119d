"""what an index of Elasticsearch does not know yet"""

import sqlalchemy as sa
from alembic import op

from noxchat.search.outbox import create_triggers, drop_triggers

revision = '5b0c7e91d3fa'
down_revision = 'c3b1d2a94e57'
branch_labels = None
depends_on = None


def upgrade():
    number = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    op.create_table('search_outbox',
    sa.Column('id', number, nullable=False),
    sa.Column('kind', sa.String(length=64), nullable=False),
    sa.Column('row_id', number, nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('refused', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_search_outbox')),
    sa.UniqueConstraint('kind', 'row_id', name=op.f('uq_search_outbox_kind_row_id')),
    sqlite_autoincrement=True
    )
    op.create_table('search_indexes',
    sa.Column('kind', sa.String(length=64), nullable=False),
    sa.Column('place', sa.String(length=32), nullable=False),
    sa.Column('name', sa.String(length=255), nullable=True),
    sa.Column('known', number, server_default='0', nullable=False),
    sa.Column('holder', sa.String(length=32), nullable=True),
    sa.Column('held_until', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('kind', name=op.f('pk_search_indexes'))
    )
    create_triggers(op.get_bind(), 'users')


def downgrade():
    drop_triggers(op.get_bind(), 'users')
    op.drop_table('search_indexes')
    op.drop_table('search_outbox')
