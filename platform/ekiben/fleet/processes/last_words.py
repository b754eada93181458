"""What a process wrote last before it ended unasked: the end of its log, without what is mere routine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

MAX_LINES: Final = 3
MAX_CHARACTERS: Final = 300
_LOOK_BACK_BYTES: Final = 16 * 1024
_ROUTINE: Final = re.compile(r"\S+ \S+ (DEBUG|INFO) |\s|Traceback ")
"""Ordinary news, and all of a traceback but its last line, which says what happened."""


def last_words(log: Path, *, since_byte: int) -> str:
    """The last lines of the log that were written after that many bytes; empty when there are none."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(since_byte, end - _LOOK_BACK_BYTES))
            text = file.read(_LOOK_BACK_BYTES).decode(errors="replace")
    except OSError:
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _ROUTINE.match(line)]
    return " / ".join(lines[-MAX_LINES:])[-MAX_CHARACTERS:]
