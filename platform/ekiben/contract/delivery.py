"""What every source checks about the files it brings: where they may go, whether they fit, what they are.

Names of files come from specs and from other people's servers; nothing here trusts them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Final

from ekiben.errors import FetchFailed

_BLOCK_BYTES: Final = 1 << 20
_STRANGE: Final = re.compile(r"[\x00-\x1f\x7f\\]")


def target_in(folder: Path, name: str) -> Path:
    """Where the file `name` (with `/` between folders) goes in `folder`. Raises FetchFailed if outside.

    Hidden names at the top are refused too: there sources keep what is not finished.
    """
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or path.parts[0].startswith(".")
        or _STRANGE.search(name)
    ):
        raise FetchFailed(f"{name!r} is not a file name that stays inside the weights' folder")
    target = folder / path
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise FetchFailed(f"{name!r} leads out of the weights' folder")
    return target


def require_space(folder: Path, *, needed_bytes: int) -> None:
    """Raise FetchFailed now if `needed_bytes` more do not fit, instead of filling the disk first."""
    if needed_bytes > shutil.disk_usage(folder).free:
        raise FetchFailed(space_message(folder, needed_bytes=needed_bytes))


def space_message(folder: Path, *, needed_bytes: int | None) -> str:
    """What to tell somebody whose disk is full, or would be."""
    needed = "more room is needed" if needed_bytes is None else f"{size_text(needed_bytes)} more are needed"
    try:
        free = size_text(shutil.disk_usage(folder).free)
    except OSError:
        free = "an unknown amount"
    return f"the disk at {_mount_point(folder)} is full: {needed}, {free} free; free some space and try again"


def _mount_point(folder: Path) -> Path:
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.is_mount()), folder)


def size_text(size_bytes: int) -> str:
    """`98.4 MB`, with three digits that matter."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 1000 else f"{size:.0f} TB"


def sha256_of(path: Path) -> str:
    """Lower case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def git_blob_sha1_of(path: Path) -> str:
    """What git calls this content; model hubs name small files so."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def share_file(original: Path, copy: Path) -> None:
    """Give `copy` the content of `original`: one more name for it where possible, else a copy."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    try:
        os.link(original.resolve(), copy)
    except OSError:  # another disk, or one that knows no links
        require_space(copy.parent, needed_bytes=original.stat().st_size)
        shutil.copyfile(original, copy)
