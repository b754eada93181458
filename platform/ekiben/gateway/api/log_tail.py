"""The last lines of a replica's log, read from the end."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_LINES: Final = 200
MAX_LINES: Final = 10_000
MAX_BYTES: Final = 4 * 2**20


def tail(path: Path, lines: int) -> bytes:
    """At most so many whole lines; empty when there is no log yet."""
    if lines == 0:
        return b""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MAX_BYTES))
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        return b""
    return b"".join(data.splitlines(keepends=True)[-lines:])
