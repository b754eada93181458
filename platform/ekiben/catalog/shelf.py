"""One set of weights on the disk: where it lies, whether it is whole, and how it comes to be visible.

    weights/<source kind>/<key>/            whole, never written to again
        weights.json                        the marker: what loaders get, and each file's size
        files/                              what the source brought
    weights/<source kind>/<key>.part/       under way; no loader ever looks here
    weights/<source kind>/<key>.lock        held by whoever writes to either of them

The one step from `.part` to whole is a rename, so that a half set is never where a loader would take it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ekiben.contract.model import SourceSpec
from ekiben.contract.source import FetchProgress
from ekiben.errors import FetchFailed

MARKER: Final = "weights.json"
_FILES: Final = "files"
_VERSION: Final = 1


def source_key(source: SourceSpec) -> str:
    """The same for the same source however its spec is written."""
    text = json.dumps([source.kind, source.parameters], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Marker:
    """What `weights.json` says."""

    loader: str
    """Relative to `files`, or absolute for weights that are used in place."""
    files: dict[str, int]
    """The size of each file in `files`, in bytes."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The place of one source's weights. Its methods block, briefly, on the disk alone."""

    folder: Path

    @staticmethod
    def of(home: Path, source: SourceSpec) -> Shelf:
        kind = source.kind if source.kind.isidentifier() else "unknown"
        return Shelf(home / "weights" / kind / source_key(source))

    @property
    def part(self) -> Path:
        return self.folder.with_name(self.folder.name + ".part")

    @property
    def incoming(self) -> Path:
        """The folder that the source writes to."""
        return self.part / _FILES

    @property
    def progress_file(self) -> Path:
        return self.part / "progress.json"

    @property
    def lock_file(self) -> Path:
        return self.folder.with_name(self.folder.name + ".lock")

    def loader_path(self) -> Path | None:
        """What loaders get, if the weights are whole: each file is there and as long as it was."""
        marker = self._marker()
        if marker is None:
            return None
        if not all(_has_size(self.folder / _FILES / name, size) for name, size in marker.files.items()):
            return None
        path = self.folder / _FILES / marker.loader  # an absolute path stands for itself
        return path if path.exists() else None

    def size_bytes(self) -> int | None:
        """Of whole weights; of weights used in place, what their path holds now."""
        path, marker = self.loader_path(), self._marker()
        if path is None or marker is None:
            return None
        return _size_of(path) if Path(marker.loader).is_absolute() else sum(marker.files.values())

    def progress(self) -> FetchProgress | None:
        """What the process that is at it has reported last."""
        try:
            return FetchProgress(**json.loads(self.progress_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def prepare(self) -> None:
        """Make room for a source to write. What is there in part, or was damaged, is kept for it."""
        if self.folder.exists():
            if self.part.exists():
                shutil.rmtree(self.folder)
            else:
                self.folder.rename(self.part)
                (self.part / MARKER).unlink(missing_ok=True)
        self.incoming.mkdir(parents=True, exist_ok=True)

    def publish(self, loader: Path, *, source: SourceSpec) -> Path:
        """Make what lies in `incoming` visible, with `loader` in it or elsewhere. Raises FetchFailed."""
        inside = loader.is_relative_to(self.incoming)
        if not loader.exists() or not (inside or loader.is_absolute()):
            raise FetchFailed(
                f"the source {source.kind!r} says that the weights are at {loader}: nothing is there"
            )
        marker = _Marker(
            loader=str(loader.relative_to(self.incoming) if inside else loader),
            files={str(path.relative_to(self.incoming)): size for path, size in _files_in(self.incoming)},
        )
        self.progress_file.unlink(missing_ok=True)
        about = {"version": _VERSION, "source": {"kind": source.kind, **source.parameters}}
        _write_through(self.part / MARKER, json.dumps(about | asdict(marker), indent=1, default=str))
        self.part.rename(self.folder)
        _sync_folder(self.folder.parent)
        return self.folder / _FILES / marker.loader

    def discard_part(self, *, if_empty: bool = False) -> None:
        if self.part.exists() and not (if_empty and any(_files_in(self.incoming))):
            shutil.rmtree(self.part)

    def discard(self) -> None:
        """Remove whole and partial weights; never those that are used in place."""
        self.discard_part()
        if self.folder.exists():
            # Invisible in one step, then removed at leisure.
            self.folder.rename(self.part)
            self.discard_part()

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Try to become the one who writes here: the lock's descriptor, or None if somebody else is it.

        A child that inherits the descriptor holds the lock too, for as long as it lives.
        """
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)

    def _marker(self) -> _Marker | None:
        try:
            written = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))
            return _Marker(written["loader"], written["files"]) if written["version"] == _VERSION else None
        except (OSError, ValueError, TypeError, KeyError):  # not there, or not ours
            return None


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def _files_in(folder: Path) -> Iterator[tuple[Path, int]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.stat().st_size


def _size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(size for _, size in _files_in(path))


def _write_through(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
