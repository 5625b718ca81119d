"""The file of a backup: a gzipped tar file, which any machine can open.

manifest.json         what is in it, and how to tell that it is whole
database.sqlite3      or database.dump, of pg_dump
secret_key            unless it was left out
avatars/<id>/<file>   the pictures
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from noxchat.files import give_to_owner, make_private_folder
from noxchat.hosting import HostingError
from noxchat.hosting.tables import Summaries

FORMAT = 1
MANIFEST, KEY, AVATARS = "manifest.json", "secret_key", "avatars"
DATABASE_FILES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}
MEMBER = re.compile(r"secret_key|database\.(sqlite3|dump)|avatars/[a-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,80}\.webp")
MAX_MANIFEST_BYTES = 1_000_000
COMPRESSION = 1  # more takes three times as long, to save a tenth
# What reading a file raises that is damaged, or no backup at all.
DAMAGED = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, KeyError, TypeError)


@dataclass
class Manifest:
    """What an archive has.

    version: of NoxChat. created_at: in ISO 8601, UTC. database: sqlite or postgresql. revision: of the tables.
    tables: see hosting.tables. avatars: number and checksum of the pictures. files: SHA-256 of the other files.
    """

    version: str
    created_at: str
    database: str
    revision: str
    tables: Summaries
    avatars: list = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def write(file: BinaryIO, folder: Path, manifest: Manifest):
    """Write what is in a folder, laid out as in an archive, as an archive. Completes the manifest. Raises OSError."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    manifest.avatars, manifest.files = checksums(folder)
    text = json.dumps(asdict(manifest), indent=1).encode()
    with (
        gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, MANIFEST, len(text), io.BytesIO(text))
        for name in names:
            with open(folder / name, "rb") as source:
                _add(tar, name, (folder / name).stat().st_size, source)


def _add(tar: tarfile.TarFile, name: str, size: int, source: IO[bytes]):
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, source)


def checksums(folder: Path) -> tuple[list, dict[str, str]]:
    """Return number and checksum of the pictures in a folder laid out as an archive, and SHA-256 of the other files."""
    count, total, files = 0, 0, {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if name.startswith(f"{AVATARS}/"):
            count += 1
            total += int(hashlib.sha256(f"{name} {digest}".encode()).hexdigest(), 16)
        else:
            files[name] = digest
    return [count, f"{total % 2**256:064x}"], files


class Archive:
    """An archive that is being read. manifest: what it has."""

    def __init__(self, path: Path, tar: tarfile.TarFile):
        self.path, self.tar = path, tar
        with _reading(path):
            self.manifest = _read_manifest(tar)

    def extract(self, folder: Path):
        """Write the files into a folder, for this user only, and check that they are whole. Raises HostingError."""
        with _reading(self.path):
            _extract(self.tar, self.manifest, folder)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Have what a damaged archive raises end in a sentence."""
    try:
        yield
    except DAMAGED as error:
        raise HostingError(f"{path} is damaged, or no backup of NoxChat.") from error
    except OSError as error:
        raise HostingError(f"{error.filename or path} cannot be read or written: {error.strerror}.") from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive in a with statement. Raises HostingError."""
    with ExitStack() as stack:
        with _reading(path):
            file = stack.enter_context(gzip.open(path))
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
        yield Archive(path, tar)


def _read_manifest(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or member.size > MAX_MANIFEST_BYTES:
        raise ValueError("no manifest")
    file = tar.extractfile(member)
    assert file
    content = json.load(file)
    if content["format"] > FORMAT:
        raise HostingError(f"This backup was made by NoxChat {content['version']}, which is newer: update first.")
    return Manifest(**content)


def _extract(tar: tarfile.TarFile, manifest: Manifest, folder: Path):
    while (member := tar.next()) is not None:
        source = tar.extractfile(member) if member.isreg() and MEMBER.fullmatch(member.name) else None
        if source is None:
            raise ValueError("a file that does not belong there")
        target = folder / member.name
        make_private_folder(target.parent)
        with open(target, "xb", opener=_private) as file:
            shutil.copyfileobj(source, file, 1 << 20)
    while tar.fileobj and tar.fileobj.read(1 << 20):
        pass  # to the end of the file, which has the checksum of all
    if checksums(folder) != (manifest.avatars, manifest.files):
        raise ValueError("not the files of the manifest")


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    give_to_owner(descriptor, os.path.dirname(path))
    return descriptor
