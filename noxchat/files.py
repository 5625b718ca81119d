"""Files and folders that only the user who runs NoxChat can open, whatever the umask.

The process's umask stays as it is, since other code in the process may rely on it.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

GROUP_AND_OTHERS = 0o077  # what group and others may do


def make_private_folder(path: Path):
    """Create a folder, and those above it that are missing, for this user only. Leaves existing ones as they are.

    Raises OSError.
    """
    # Path.mkdir would create those above it with the umask's mode.
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # fails if it is a file


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
        if is_new and os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
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
