"""Avatars: checked and redrawn by avatar_decode, kept as DATA_DIR/avatars/<public id>/<hash of the content>.webp.

A file's name changes with its content, so browsers may keep it for a year.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore

from flask import current_app
from flask_babel import gettext as _

from noxchat import friendships, people
from noxchat.database import start_writing
from noxchat.extensions import db
from noxchat.main import avatar_decode
from noxchat.models import User
from noxchat.refusal import Invalid

log = logging.getLogger("noxchat.avatars")

FILE_NAME = re.compile(r"[0-9a-f]{32}\.webp")
WALL_SECONDS = 10
QUEUE_SECONDS = 8

# One at a time: six large pictures together would take six times the memory, and two cores are busy with one.
_turn = BoundedSemaphore(1)


def redraw(data: bytes) -> bytes:
    """Return a picture as the WebP that is kept of it: upright, square, 256 by 256, without any metadata.

    data: a JPEG, PNG, WebP, GIF (its first frame) or HEIC file; judged by what is in it. At most AVATAR_PIXELS.
    Raises Invalid about `avatar`, in words for the person.
    """
    pixels = current_app.config["AVATAR_PIXELS"]
    command = [sys.executable, "-I", avatar_decode.__file__, str(pixels)]
    environment = {"MALLOC_ARENA_MAX": "1"}  # arenas reserve address space, which is what the limit counts
    if not _turn.acquire(timeout=QUEUE_SECONDS):
        raise Invalid(_("Many pictures are being read just now. Try again in a moment."), "avatar")
    try:
        try:
            done = subprocess.run(  # noqa: S603
                command, input=data, capture_output=True, timeout=WALL_SECONDS, check=False, env=environment, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise Invalid(_("This picture takes too long to read. Choose another."), "avatar") from None
    finally:
        _turn.release()
    if done.returncode == 0 and done.stdout:
        return done.stdout
    raise Invalid(
        {
            avatar_decode.TOO_MANY_PIXELS: _(
                "This picture has more than %(count)s megapixels. Make it smaller.", count=pixels // 1_000_000
            ),
            avatar_decode.TOO_HEAVY: _(
                "This picture cannot be opened: it is damaged or too large. Save it smaller, as a JPEG, say."
            ),
        }.get(done.returncode, _("This file is damaged or not a picture. Choose another.")),
        "avatar",
    )


def folder(public_id: str) -> Path:
    """Return the folder of a person's pictures. The Public ID's alphabet has nothing that could leave it."""
    return current_app.config["AVATAR_DIR"] / public_id.lower()


class Change:
    """Pictures that are about to change: see `change`."""

    def __init__(self):
        self.made = []
        self.dropped = []

    def put(self, public_id: str, picture: bytes) -> str:
        """Write a picture beside the old one and return its name. Raises OSError when the disk is full, say."""
        name = hashlib.sha256(picture).hexdigest()[:32] + ".webp"
        target = folder(public_id) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            self.made.append(target)
            descriptor, unfinished = tempfile.mkstemp(dir=target.parent, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(picture)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(unfinished, target)
            except OSError:
                Path(unfinished).unlink(missing_ok=True)
                raise
        return name

    def move(self, old_id: str, new_id: str, name: str | None):
        """Have the picture in the folder of another Public ID; the old folder goes with the commit."""
        if old_id.lower() == new_id.lower():
            return
        if name and (folder(old_id) / name).is_file():
            self.put(new_id, (folder(old_id) / name).read_bytes())
        self.drop_all(old_id)

    def drop(self, public_id: str, name: str | None):
        """Remove a picture with the commit."""
        if name:
            self.dropped.append(folder(public_id) / name)

    def drop_all(self, public_id: str):
        """Remove all of somebody's pictures with the commit."""
        self.dropped.append(folder(public_id))


@contextmanager
def change():
    """Change pictures and the database together: in a with statement, whose end must come after the commit.

    If the block fails, what it wrote is removed and what it would have dropped stays. A lock lets one change happen at
    a time, also between processes, so that a picture that comes while its folder moves ends up in the new folder.
    """
    root = current_app.config["AVATAR_DIR"]
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = Change()
        try:
            yield files
        except BaseException:
            for made in files.made:
                made.unlink(missing_ok=True)
                with suppress(OSError):  # not empty: the old picture is still there
                    made.parent.rmdir()
            raise
        for dropped in files.dropped:
            try:
                _remove(dropped)
            except OSError as error:  # the change itself is made; what is left over only takes space
                log.warning("old picture not removed: %s", error.strerror)


def _remove(path: Path):
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
        with suppress(OSError):  # not empty: another picture is there by now
            path.parent.rmdir()


def remove_account(user: User):
    """Delete an account with its pictures, and commit: both go, or neither. Raises Refused when it is gone already."""
    with change() as files:
        start_writing(db.session)
        friendships.leave(user)
        found = people.locked(user)
        files.drop_all(found.profile.public_id)
        people.remove(found)
        db.session.commit()
