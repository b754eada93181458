"""A folder of bytes under unguessable names: each is there whole, or not at all.

Pieces are written beside, made durable, and only then given their name. What a blob is, how long it is kept
and who may have it is the business of whoever keeps rows of them; a blob without a row is swept away by
`sweep`. No name ever comes from a client: ids are made here, and anything else is not looked for.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import IO, Final

from ekiben.contract.delivery import space_message
from ekiben.errors import StorageFull

_ID: Final = re.compile(r"[a-z]+[-_][0-9a-f]{32}")
_PART: Final = ".part"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def new_id(prefix: str) -> str:
    """Nobody guesses it. `prefix`: what it begins with, its dash or underscore included."""
    return f"{prefix}{secrets.token_hex(16)}"


class Blobs:
    """Methods block on the disk; any thread may call them. Raise StorageFull, or OSError for the rest."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder when it is first written to."""
        self.folder = folder

    def path(self, blob_id: str) -> Path:
        """Where its bytes are, or would be. Raises ValueError for what is no id."""
        if not _ID.fullmatch(blob_id):
            raise ValueError(f"{blob_id!r} is no id of a blob")
        return self.folder / blob_id

    def begin(self, blob_id: str) -> Draft:
        """A new blob, empty and without its name."""
        path = self.path(blob_id)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Draft(path)
        except OSError as error:
            raise full_or_same(error, self.folder) from None

    def open(self, blob_id: str) -> IO[bytes]:
        """For reading, from its beginning. Raises FileNotFoundError."""
        return self.path(blob_id).open("rb")

    def delete(self, blob_id: str) -> None:
        """Give the space back. Whoever reads it may read to its end. Idempotent."""
        self.path(blob_id).unlink(missing_ok=True)

    def sweep(self, kept: Collection[str]) -> int:
        """Remove all but these: drafts of a killed platform, and blobs whose row was never written."""
        if not self.folder.is_dir():
            return 0
        orphans = [path for path in self.folder.iterdir() if path.name not in kept and path.is_file()]
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)


class Draft:
    """A blob that is being written. `keep` gives it its name, `drop` leaves nothing of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + _PART)
        self._file = self._part.open("wb", buffering=0)
        self.size_bytes = 0

    def write(self, data: bytes | bytearray) -> None:
        """Raises StorageFull."""
        view = memoryview(data)
        try:
            while view:
                written = self._file.write(view)
                self.size_bytes += written
                view = view[written:]
        except OSError as error:
            raise full_or_same(error, self._path.parent) from None

    def keep(self) -> None:
        """On the disk under its name when this returns: survives `kill -9` and loss of power."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise full_or_same(error, self._path.parent) from None

    def drop(self) -> None:
        """Idempotent, and harmless after `keep`."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Names in it that were made or changed are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full_or_same(error: OSError, folder: Path) -> Exception:
    """A full disk in words, any other failure as it is."""
    if error.errno in _FULL:
        return StorageFull(space_message(folder, needed_bytes=None))
    return error
