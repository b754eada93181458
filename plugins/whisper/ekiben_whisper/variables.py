"""The variables of a CTranslate2 file, by name: read where they lie, each size held against the file's.

Knows nothing of what they mean; see `conversion`.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ekiben.contract import LoadFailed

WIDTH_BYTES: Final = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}
"""Of a number of each kind: float32, int8, int16, int32, float16, bfloat16."""
_VERSIONS: Final = (5, 6)
_SPECIFICATION: Final = b"WhisperSpec"


@dataclass(frozen=True, slots=True)
class Variable:
    kind: int
    shape: tuple[int, ...]
    content: memoryview[int]


def variables(path: Path) -> dict[str, Variable]:
    """Nothing is read but the headers until a content is looked at. Raises LoadFailed."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise LoadFailed(f"{path.name} is empty: fetch the model again")
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise LoadFailed(f"{path.name} cannot be read: {error.strerror}") from None
    return dict(_Cursor(content, name=path.name).variables())


class _Cursor:
    """Goes through a file once, and never beyond its end."""

    def __init__(self, content: memoryview[int], *, name: str) -> None:
        self._content = content
        self._name = name
        self._place = 0

    def variables(self) -> list[tuple[str, Variable]]:
        if (version := self._number(4)) not in _VERSIONS:
            raise LoadFailed(f"{self._name} is not a CTranslate2 file of version 5 or 6, but says {version}")
        if self._text() != _SPECIFICATION.decode():
            raise LoadFailed(f"{self._name} is a CTranslate2 file, and not of a Whisper model")
        self._number(4)  # the specification's revision
        # Each takes some bytes, so that a count which is a lie ends with the file.
        return [(self._text(), self._variable()) for _ in range(self._number(4))]

    def _variable(self) -> Variable:
        shape = tuple(self._number(4) for _ in range(self._number(1)))
        kind, size = self._number(1), self._number(4)
        if size != math.prod(shape) * WIDTH_BYTES.get(kind, 0):
            raise LoadFailed(f"{self._name} is damaged: a variable of shape {shape} has {size} bytes")
        return Variable(kind, shape, self._take(size))

    def _text(self) -> str:
        return bytes(self._take(self._number(2))).rstrip(b"\0").decode(errors="replace")

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> memoryview[int]:
        if size > len(self._content) - self._place:
            raise LoadFailed(f"{self._name} ends in the middle: fetch the model again")
        self._place += size
        return self._content[self._place - size : self._place]
