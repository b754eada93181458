"""Pictures that were asked for as URLs: one file each, under a name that nobody can guess, for a while.

The name is all that it takes to read one, so names are told to those who asked and to nobody else.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from ekiben.clock import Clock

MAX_BYTES: Final = 2 * 2**30
"""Of all together. The oldest go first."""
NAME: Final = re.compile(r"[A-Za-z0-9_-]{43}\.(png|jpeg|webp)")
_SECRET_BYTES: Final = 32


class PictureStore:
    """Each file's time is the one at which it ends. All methods block."""

    def __init__(self, folder: Path, *, keep_s: float, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._keep_s = keep_s
        self._clock = clock
        self._max_bytes = max_bytes

    def save(self, data: bytes, kind: str) -> str:
        """The name of a new picture, which ends with its format. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{secrets.token_urlsafe(_SECRET_BYTES)}.{kind}"
        path = self._folder / name
        ends_s = self._clock.now().timestamp() + self._keep_s
        try:
            with path.open("xb") as file:
                file.write(data)
            os.utime(path, (ends_s, ends_s))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.sweep()
        return name

    def read(self, name: str) -> bytes | None:
        """None: there is none of this name, or no more."""
        if not NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            if path.stat().st_mtime <= self._clock.now().timestamp():
                return None
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Remove what has ended, and the oldest of what is too much."""
        with suppress(FileNotFoundError):
            files = sorted(
                (
                    (entry.stat().st_mtime, entry.stat().st_size, entry.path)
                    for entry in os.scandir(self._folder)
                ),
                reverse=True,
            )
            now_s, held_bytes = self._clock.now().timestamp(), 0
            for ends_s, size_bytes, path in files:
                held_bytes += size_bytes
                if ends_s <= now_s or held_bytes > self._max_bytes:
                    Path(path).unlink(missing_ok=True)
