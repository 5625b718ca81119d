"""search: the lock of a live connection instead of leases; no rows set aside; SQLite always has its index"""

import sqlalchemy as sa
from alembic import op

from noxchat.search import create_trigram_index
from noxchat.search.outbox import create_triggers, drop_triggers

revision = '9c41a7b3e562'
down_revision = '7d2e4f60b8a1'
branch_labels = None
depends_on = None


def upgrade():
    if op.get_bind().dialect.name == 'postgresql':
        drop_triggers(op.get_bind(), 'users')
        create_triggers(op.get_bind(), 'users')
    else:
        create_trigram_index(op.get_bind(), 'users')
    op.execute("ALTER TABLE search_outbox DROP COLUMN refused")
    op.execute("ALTER TABLE search_indexes DROP COLUMN holder")
    op.execute("ALTER TABLE search_indexes DROP COLUMN held_until")


def downgrade():
    op.add_column('search_indexes', sa.Column('held_until', sa.DateTime(timezone=True), nullable=True))
    op.add_column('search_indexes', sa.Column('holder', sa.String(length=32), nullable=True))
    op.add_column('search_outbox', sa.Column('refused', sa.Text(), nullable=True))
    if op.get_bind().dialect.name == 'postgresql':
        op.execute("""CREATE OR REPLACE FUNCTION search_outbox_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM search_indexes WHERE kind = 'users') THEN
    INSERT INTO search_outbox (kind, row_id, created_at)
    VALUES ('users', CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END, clock_timestamp())
    ON CONFLICT (kind, row_id) DO UPDATE SET id = EXCLUDED.id, created_at = EXCLUDED.created_at, refused = NULL;
  END IF;
  RETURN NULL;
END $$""")
