"""what somebody did last to another, so that it can be undone for a moment"""

import sqlalchemy as sa
from alembic import op

revision = 'd3b8f0627ce4'
down_revision = 'a90e4c5d17b8'
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade():
    op.create_table(
        'undo_records',
        sa.Column('actor_id', sa.Integer(), nullable=False),
        sa.Column('person_id', sa.Integer(), nullable=False),
        sa.Column('action', sa.String(length=8), nullable=False),
        sa.Column('done_at', TIME, nullable=False),
        sa.Column('state', sa.String(length=8), nullable=False),
        sa.Column('since', TIME, nullable=True),
        sa.Column('cooldown_until', TIME, nullable=True),
        sa.CheckConstraint('actor_id <> person_id', name=op.f('ck_undo_records_not_oneself')),
        sa.CheckConstraint(
            "action IN ('decline', 'cancel', 'remove', 'block')", name=op.f('ck_undo_records_action')
        ),
        sa.CheckConstraint("(state = 'none') = (since IS NULL)", name=op.f('ck_undo_records_since')),
        sa.ForeignKeyConstraint(['actor_id'], ['users.id'], name=op.f('fk_undo_records_actor_id'), ondelete='CASCADE'),
        sa.ForeignKeyConstraint(['person_id'], ['users.id'], name=op.f('fk_undo_records_person_id'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('actor_id', 'person_id', name=op.f('pk_undo_records')),
    )
    op.create_index('ix_undo_records_done_at', 'undo_records', ['done_at'])
    op.create_index('ix_undo_records_person_id', 'undo_records', ['person_id'])


def downgrade():
    op.drop_table('undo_records')
