"""Files and folders that only the user who runs NoxChat can open, whatever the umask.

The process's umask stays as it is, since other code in the process may rely on it.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

GROUP_AND_OTHERS = 0o077  # what group and others may do


def make_private_folder(path: Path):
    """Create a folder, and those above it that are missing, for this user only. Leaves existing ones as they are.

    Raises OSError.
    """
    # Path.mkdir would create those above it with the umask's mode.
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        give_to_owner(missing, missing.parent)
    path.mkdir(mode=0o700, exist_ok=True)  # fails if it is a file


def give_to_owner(file: int | Path, folder: str | Path):
    """Give a file that root has created, or its descriptor, to the owner of a folder. Raises OSError.

    Otherwise the server, which does not run as root, could not open what a command has created.
    """
    if os.geteuid() == 0:
        owner = os.stat(folder)
        os.chown(file, owner.st_uid, owner.st_gid)


def open_lock_file(path: str | Path, flags: int, protected: str | Path) -> int:
    """Open a file that is only there to be locked, and create it for one user only. Returns a descriptor.

    flags: os.O_RDONLY or os.O_RDWR. protected: the file or folder that it is about, to whose owner it belongs, even if
    root creates it. Raises OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        is_new = True
    except FileExistsError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        is_new = False
    with suppress(OSError):  # what the lock needs is there
        owner, found = os.stat(protected), os.fstat(descriptor)
        if is_new:
            give_to_owner(descriptor, protected)
        elif found.st_mode & GROUP_AND_OTHERS and found.st_uid == os.geteuid() == owner.st_uid:
            # Others could hold the lock. One that root created for somebody else stays as it is, who has to open it.
            os.fchmod(descriptor, 0o600)
    return descriptor


def make_file_private(path: str | Path):
    """Take group's and others' access from a file, if it exists and belongs to this user. Does not follow a link."""
    with suppress(OSError):
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and found.st_mode & GROUP_AND_OTHERS and found.st_uid == os.geteuid():
            os.chmod(path, stat.S_IMODE(found.st_mode) & ~GROUP_AND_OTHERS)


@contextmanager
def write_whole(path: Path, owner_of: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file in a with statement, whose value is a binary file: there afterwards as a whole, or not at all.

    Only this user can open it; or, if root writes it, who owns `owner_of`. Replaces an existing file. What is left
    after a crash ends with `.part`. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if owner_of:
                give_to_owner(file.fileno(), owner_of)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path):
    """Have the names in a folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Lock a file in a with statement, without waiting. Its value tells whether that succeeded.

    shared: with others that share it. The lock ends with this process and those that it forks. Raises OSError.
    """
    descriptor = open_lock_file(path, os.O_RDWR, path.parent)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        is_locked = True
    except BlockingIOError:
        is_locked = False
    try:
        yield is_locked
    finally:
        if is_locked and not shared:  # or a process that is just being started would hold it a little longer
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
