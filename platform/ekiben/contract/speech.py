"""What engines of speech share: where a text falls into sentences, and sentences into breaths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

_ENDS: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")

_BREAKS: Final = (",;:", " ")
"""Where a long sentence is cut, best first."""


def sentences(text: str) -> list[str]:
    """For engines whose library does not tell them: cut after the marks that end a sentence, and at lines."""
    return [sentence for part in _ENDS.split(text) if (sentence := part.strip())]


def split(phonemes: list[str], *, limit: int) -> Iterator[list[str]]:
    """Pieces of at most `limit`, cut after punctuation, else at a space, else anywhere."""
    while len(phonemes) > limit:
        cut = next((cut for marks in _BREAKS if (cut := _last(phonemes[:limit], marks))), limit)
        yield phonemes[:cut]
        phonemes = phonemes[cut:]
    if phonemes:
        yield phonemes


def _last(phonemes: Sequence[str], marks: str) -> int:
    """How many there are up to the last of the marks, 0 when there is none in the second half."""
    half = len(phonemes) // 2
    return next((i + 1 for i in range(len(phonemes) - 1, half, -1) if phonemes[i] in marks), 0)
