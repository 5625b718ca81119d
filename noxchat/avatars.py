"""Storage of avatars: DATA_DIR/avatars/<public id>/<hash of the content>.webp.

A file's name changes with its content, so browsers may cache it for a year.

Files follow the database transaction at hand: what was written is deleted when it is rolled back, and what was replaced
is deleted only once it is committed. Call these functions after all other statements of the transaction, since a file
lock allows one transaction at a time, also between processes: a picture that is uploaded while its folder is renamed
ends up in the new folder, and a freed Public ID never shows the former owner's picture.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flask import current_app
from flask_babel import gettext as _
from sqlalchemy import event
from sqlalchemy.orm import Session as DatabaseSession

from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.files import give_to_owner, make_private_folder, open_lock_file, write_whole
from noxchat.models import User

log = logging.getLogger("noxchat.avatars")

LINKS = ".links-"  # the beginning of the name of a folder with links to all pictures
FILE_NAME = re.compile(r"[0-9a-f]{32}\.webp")


def folder(public_id: str) -> Path:
    """Return the folder of a person's pictures. A Public ID contains no character that could lead out of it."""
    return current_app.config["AVATAR_DIR"] / public_id.lower()


def update(user: User, old_public_id: str, picture: bytes | None = None):
    """Bring the files in line with a profile that was edited: move them to its Public ID, store a new picture.

    old_public_id: before the edit. picture: WebP; None keeps the present one.
    Raises InvalidInput about `avatar` when a file cannot be written.
    """
    profile, old_name = user.profile, user.avatar
    is_moved = profile.public_id.lower() != old_public_id.lower()
    if picture:
        profile.avatar = _write(profile.public_id, picture)
    elif is_moved and old_name and (old_file := folder(old_public_id) / old_name).is_file():
        _write(profile.public_id, old_file.read_bytes())
    if is_moved:
        _changes().removed.append(folder(old_public_id))
    elif old_name and profile.avatar != old_name:
        _changes().removed.append(folder(old_public_id) / old_name)


def remove(user: User):
    """Delete a person's avatar, if there is one."""
    if user.avatar:
        _changes().removed.append(folder(user.public_id) / user.avatar)
    user.profile.avatar = None


def after_account_deletion(user: User):
    """Delete all pictures of an account that was deleted."""
    _changes().removed.append(folder(user.public_id))


def _write(public_id: str, picture: bytes) -> str:
    """Write a picture and return its file name. Raises InvalidInput."""
    name = hashlib.sha256(picture).hexdigest()[:32] + ".webp"
    path = folder(public_id) / name
    changes = _changes()
    if not path.exists():
        changes.created.append(path)
        try:
            _write_atomically(path, picture)
        except OSError as error:
            raise _cannot_write(error) from error
    return name


def _write_atomically(path: Path, data: bytes):
    make_private_folder(path.parent)
    with write_whole(path) as file:
        file.write(data)


def _cannot_write(error: OSError) -> InvalidInput:
    log.error("avatar not saved: %s", error.strerror)
    return InvalidInput(_("The picture could not be kept: the disk is full or not writable."), "avatar")


class FileChanges:
    """The files that a transaction has created, and those to remove with its commit. Holds the file lock until then."""

    def __init__(self, root: Path):
        self.created: list[Path] = []
        self.removed: list[Path] = []
        self.lock = _lock(root)  # closed at the end of the transaction

    def commit(self):
        """Remove what was replaced."""
        for path in self.removed:
            try:
                _remove(path)
            except OSError as error:  # the change itself is committed; what is left only takes space
                log.warning("old avatar not removed: %s", error.strerror)
        self.lock.close()

    def rollback(self):
        """Remove what was created."""
        for path in self.created:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty: the old picture is still there
                path.parent.rmdir()
        self.lock.close()


def _lock(root: Path) -> IO[str]:
    """Return a file that is locked until it is closed, so that nobody else changes pictures. Raises OSError."""
    make_private_folder(root)
    file = os.fdopen(open_lock_file(root / ".lock", os.O_RDWR, root), "r+")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


@contextmanager
def snapshot(target: Path) -> Iterator[None]:
    """Copy all pictures to a new folder, as they are during a with statement: nobody can change any meanwhile.

    They are only linked then, where the file system has links, as whoever waits may hold the database's write lock.
    Raises OSError.
    """
    root = current_app.config["AVATAR_DIR"]
    with _lock(root):
        for left in root.glob(f"{LINKS}*"):  # by a process that was killed
            shutil.rmtree(left)
        links = Path(tempfile.mkdtemp(prefix=LINKS, dir=root))
        give_to_owner(links, root)
        _link_all(root, links)
        yield
    shutil.move(links, target)


def _link_all(root: Path, links: Path):
    for source in root.glob("[!.]*/*.webp"):
        if FILE_NAME.fullmatch(source.name) and not source.is_symlink():
            link = links / source.parent.name / source.name
            make_private_folder(link.parent)
            try:
                os.link(source, link)
            except OSError:
                shutil.copyfile(source, link)


def _changes() -> FileChanges:
    """Return the changes of the transaction at hand, waiting for the file lock the first time. Raises InvalidInput."""
    info = db.session.info
    if "avatar_changes" not in info:
        try:
            info["avatar_changes"] = FileChanges(current_app.config["AVATAR_DIR"])
        except OSError as error:
            raise _cannot_write(error) from error
    return info["avatar_changes"]


@event.listens_for(DatabaseSession, "after_commit")
def _commit_files(session):
    if changes := session.info.pop("avatar_changes", None):
        changes.commit()


@event.listens_for(DatabaseSession, "after_transaction_end")
def _roll_back_files(session, transaction):
    # Also when the session is closed without a rollback. Savepoints have a parent, and are not the end.
    if transaction.parent is None and (changes := session.info.pop("avatar_changes", None)):
        changes.rollback()


def _remove(path: Path):
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
        with suppress(OSError):  # not empty: another picture is there by now
            path.parent.rmdir()
