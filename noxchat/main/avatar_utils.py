"""Checking and redrawing of uploaded pictures, in a process of their own (avatar_decode.py). Storage: avatars.py."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore, Lock

from flask import current_app
from flask_babel import gettext as _

from noxchat.exceptions import InvalidInput
from noxchat.main import avatar_formats

# Read at the start, so that an upgrade on disk does not change what a running server calls.
DECODER = Path(__file__).with_name("avatar_decode.py").read_text(encoding="utf-8")
# Exit codes of it. It is not imported, as it would load Pillow into this process.
TOO_MANY_PIXELS, OUT_OF_MEMORY = 4, 5
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
    """Return a picture as the WebP that is stored: upright, 256 by 256 pixels, in sRGB, without metadata.

    data: a JPEG, PNG, WebP, GIF, HEIC or AVIF file, recognised by its content, of at most AVATAR_PIXELS. Of several
    pictures it is the first. Raises InvalidInput about `avatar`.
    """
    name = avatar_formats.recognise(data)
    if name is None:
        raise InvalidInput(_("This file is not a picture. Choose a JPEG, PNG, WebP, GIF, HEIC or AVIF."), "avatar")
    if name not in avatar_formats.ACCEPTED:
        message = _("%(format)s files do not work here. Choose a JPEG, PNG, WebP, GIF, HEIC or AVIF.", format=name)
        raise InvalidInput(message, "avatar")
    pixels = current_app.config["AVATAR_PIXELS"]
    done = _decode(data, name, pixels)
    if done.returncode == 0 and done.stdout:
        return done.stdout
    raise InvalidInput(_refusal(name, done, pixels), "avatar")


def _decode(data: bytes, name: str, pixels: int) -> subprocess.CompletedProcess:
    """Run avatar_decode. Raises InvalidInput when its turn does not come, or when it takes too long."""
    command = [sys.executable, "-I", "-c", DECODER, name, str(pixels)]
    environment = {"MALLOC_ARENA_MAX": "1"}  # each arena reserves address space, which is what is limited
    if not _slot.acquire(timeout=QUEUE_TIMEOUT_SECONDS):
        raise InvalidInput(_("Many pictures are being read just now. Try again in a moment."), "avatar")
    try:
        return subprocess.run(  # noqa: S603
            command,
            input=data,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env=environment,
            cwd="/",
            start_new_session=True,  # or Ctrl-C would end it, whose upload is still to be answered
        )
    except subprocess.TimeoutExpired:
        raise InvalidInput(_("This picture takes too long to read. Choose another."), "avatar") from None
    finally:
        _slot.release()


def _refusal(name: str, done: subprocess.CompletedProcess, pixels: int) -> str:
    """Return why a file of an accepted format is refused. done: the process that has tried to decode it."""
    match done.returncode:
        case code if code == TOO_MANY_PIXELS:
            count = pixels // 1_000_000
            return _("This picture has more than %(count)s megapixels. Make it smaller.", count=count)
        case code if code == OUT_OF_MEMORY and re.fullmatch(rb"\d{1,3}", done.stdout):
            return _(
                "%(format)s files like this can have up to %(count)s megapixels. "
                "Make the picture smaller, or save it as an ordinary JPEG, not a progressive one.",
                format=name,
                count=int(done.stdout),
            )
        case code if code == OUT_OF_MEMORY:
            return _("This picture takes too much memory to read. Make it smaller.")
        case code if -code in (signal.SIGXCPU, signal.SIGKILL):
            return _("This picture takes too long to read. Choose another.")
    return _("This %(format)s file is damaged. Choose another.", format=name)
