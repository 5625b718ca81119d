"""What is done with a whole installation: back it up, restore it, move it to another database."""

# Files in DATA_DIR: held by running servers; there while a restore is not finished.
SERVER_LOCK, RESTORE_JOURNAL = "server.lock", ".restore.json"
ASIDE = (
    "before_restore_"  # the beginning of the names of folders, and of schemas, to which a restore moves what was there
)


class HostingError(Exception):
    """Something cannot be done. str(): a sentence that says why, and what to do."""
