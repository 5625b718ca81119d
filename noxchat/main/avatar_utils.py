"""Checking and redrawing of uploaded pictures, in a process of their own (avatar_decode.py). Storage: avatars.py."""

import subprocess
import sys
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

from flask import current_app
from flask_babel import gettext as _

from noxchat.exceptions import InvalidInput
from noxchat.main import avatar_decode

TIMEOUT_SECONDS = 10
QUEUE_TIMEOUT_SECONDS = 12  # longer than one picture takes

# One at a time: six large pictures at once would take six times the memory, and one keeps two cores busy.
_slot = BoundedSemaphore(1)
# The ids of the people of whom a picture waits or is being read: one each, so that nobody fills the queue.
_uploaders: set[int] = set()
_uploaders_lock = Lock()


@contextmanager
def single_upload(user_id: int):
    """Enter while a picture of this person is redrawn. Raises InvalidInput about `avatar` if another one still is."""
    with _uploaders_lock:
        if user_id in _uploaders:
            raise InvalidInput(_("Your other picture is still being processed. Try again in a moment."), "avatar")
        _uploaders.add(user_id)
    try:
        yield
    finally:
        with _uploaders_lock:
            _uploaders.remove(user_id)


def redraw(data: bytes) -> bytes:
    """Return a picture as the WebP that is stored: upright, 256 by 256 pixels, without metadata.

    data: a JPEG, PNG, WebP, GIF (its first frame) or HEIC file, recognised by its content, of at most AVATAR_PIXELS.
    Raises InvalidInput about `avatar`.
    """
    pixels = current_app.config["AVATAR_PIXELS"]
    command = [sys.executable, "-I", avatar_decode.__file__, str(pixels)]
    environment = {"MALLOC_ARENA_MAX": "1"}  # each arena reserves address space, which is what is limited
    if not _slot.acquire(timeout=QUEUE_TIMEOUT_SECONDS):
        raise InvalidInput(_("Many pictures are being read just now. Try again in a moment."), "avatar")
    try:
        try:
            done = subprocess.run(  # noqa: S603
                command, input=data, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, env=environment, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(_("This picture takes too long to read. Choose another."), "avatar") from None
    finally:
        _slot.release()
    if done.returncode == 0 and done.stdout:
        return done.stdout
    raise InvalidInput(
        {
            avatar_decode.TOO_MANY_PIXELS: _(
                "This picture has more than %(count)s megapixels. Make it smaller.", count=pixels // 1_000_000
            ),
            avatar_decode.OUT_OF_MEMORY: _(
                "This picture cannot be opened: it is damaged or too large. Save it smaller, as a JPEG, say."
            ),
        }.get(done.returncode, _("This file is damaged or not a picture. Choose another.")),
        "avatar",
    )
