"""usernames are compared, and search texts written, by Unicode 18: see noxchat/characters.py"""

import sqlalchemy as sa
from alembic import op

from noxchat.names import skeleton
from noxchat.search import make_search_text

revision = 'e4a17c90d2b6'
down_revision = 'b5d0f3a91c47'
branch_labels = None
depends_on = None

BATCH = 5000


def upgrade():
    connection = op.get_bind()
    rename(connection, write_texts(connection))


def write_texts(connection):
    """Write everybody's search text anew, a batch at a time; return the ids and new keys of the names that change."""
    people = sa.text(
        'SELECT u.id, u.username, u.username_key, u.search_text, p.public_id FROM users u'
        ' LEFT JOIN profiles p ON p.user_id = u.id WHERE u.id > :last ORDER BY u.id LIMIT :most'
    )
    last, keys = 0, []
    while rows := connection.execute(people, {'last': last, 'most': BATCH}).all():
        keys += [(row.id, key) for row in rows if (key := skeleton(row.username)) != row.username_key]
        texts = [
            {'id': row.id, 'text': text}
            for row in rows
            if (text := make_search_text(row.username, row.public_id or '')) != row.search_text
        ]
        if texts:
            connection.execute(sa.text('UPDATE users SET search_text = :text WHERE id = :id'), texts)
        last = rows[-1].id
    return keys


def rename(connection, keys):
    """Write the new keys of names. Where several are the same now, whoever had it already or came first has it.

    The others keep their names, with a key that no name can have, for no name has a tab.
    """
    # First one that cannot collide, since somebody's new key may be somebody else's old one.
    for number, _key in keys:
        connection.execute(
            sa.text('UPDATE users SET username_key = :key WHERE id = :id'), {'id': number, 'key': f'\t{number}'}
        )
    is_taken = sa.text('SELECT 1 FROM users WHERE username_key = :key')
    for number, key in keys:
        if len(key) > 255 or connection.scalar(is_taken, {'key': key}):
            key = f'{key[:240]}\t{number}'
        connection.execute(sa.text('UPDATE users SET username_key = :key WHERE id = :id'), {'id': number, 'key': key})


def downgrade():
    # The older version writes its own keys and texts only when a name changes; `flask search reindex` rewrites texts.
    pass
