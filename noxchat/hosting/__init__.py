"""What is done with a whole installation: back it up, restore it, move it to another database."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

# Files in DATA_DIR: held by running servers; there while a restore is not finished.
SERVER_LOCK, RESTORE_JOURNAL = "server.lock", ".restore.json"
ASIDE = (
    "before_restore_"  # the beginning of the names of folders, and of schemas, to which a restore moves what was there
)


class HostingError(Exception):
    """Something cannot be done. str(): a sentence that says why, and what to do."""


@contextmanager
def translated_errors(prefix: str) -> Iterator[None]:
    """Have errors of files, databases and migrations end in a HostingError, in a with statement.

    prefix: what was not done.
    """
    from alembic.util import CommandError

    try:
        yield
    except OSError as error:
        raise HostingError(f"{prefix}: {error.strerror} ({error.filename}).") from error
    except CommandError as error:
        raise HostingError(f"{prefix}: {error}") from error
    except (DBAPIError, sqlite3.Error) as error:
        raise HostingError(f"{prefix}: the database says {str(getattr(error, 'orig', error)).strip()}.") from error
