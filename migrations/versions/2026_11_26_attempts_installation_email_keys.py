"""attempts; the installation's id; the replaced token of sessions; e-mail addresses compared by IDNA 2008"""

import secrets
import unicodedata

import idna
import sqlalchemy as sa
from alembic import op

revision = 'b5d0f3a91c47'
down_revision = '9c41a7b3e562'
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, 'sqlite')
TIME = sa.DateTime(timezone=True)


def email_key(email):
    local, at, domain = unicodedata.normalize('NFC', email).rpartition('@')
    try:
        domain = idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        pass
    return f'{local}{at}{domain}'.lower()


def upgrade():
    op.create_table(
        'attempts',
        sa.Column('id', ID, primary_key=True),
        sa.Column('key', sa.String(length=64), nullable=False),
        sa.Column('expires_at', TIME, nullable=False),
        sa.Column('pending_until', TIME, nullable=True),
    )
    op.create_index('ix_attempts_key_expires_at', 'attempts', ['key', 'expires_at'])
    op.create_index('ix_attempts_expires_at', 'attempts', ['expires_at'])

    installation = op.create_table(
        'installation',
        sa.Column('key', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('id', sa.String(length=32), nullable=False),
        sa.CheckConstraint('key = 1', name=op.f('ck_installation_key')),
        sa.PrimaryKeyConstraint('key', name=op.f('pk_installation')),
    )
    # The indexes of Elasticsearch are named by it, so they keep theirs. A new database gets one with its first request.
    known = op.get_bind().scalar(sa.text('SELECT min(installation_id) FROM search_indexes'))
    if known:
        op.bulk_insert(installation, [{'key': 1, 'id': known}])
    op.execute('ALTER TABLE search_indexes DROP COLUMN installation_id')

    op.add_column('sessions', sa.Column('previous_token_hash', sa.String(length=64), nullable=True))
    op.add_column('sessions', sa.Column('replaced_at', TIME, nullable=True))
    op.create_index('ix_sessions_previous_token_hash', 'sessions', ['previous_token_hash'], unique=True)

    size = 'octet_length(email)' if op.get_bind().dialect.name == 'postgresql' else 'length(CAST(email AS BLOB))'
    rows = op.get_bind().execute(sa.text(f'SELECT id, email FROM users WHERE {size} != length(email)')).all()
    for number, email in rows:
        values = {'id': number, 'key': email_key(email)}
        op.get_bind().execute(sa.text('UPDATE users SET email_key = :key WHERE id = :id'), values)


def downgrade():
    # Addresses that only differ by ß and ss, say, are one account to the older version: their keys cannot go back.
    op.drop_index('ix_sessions_previous_token_hash', 'sessions')
    op.execute('ALTER TABLE sessions DROP COLUMN replaced_at')
    op.execute('ALTER TABLE sessions DROP COLUMN previous_token_hash')
    known = op.get_bind().scalar(sa.text('SELECT id FROM installation')) or secrets.token_hex(8)
    column = sa.Column('installation_id', sa.String(length=32), nullable=False, server_default='')
    op.add_column('search_indexes', column)
    op.execute(sa.text('UPDATE search_indexes SET installation_id = :id').bindparams(id=known))
    op.drop_table('installation')
    op.drop_table('attempts')
