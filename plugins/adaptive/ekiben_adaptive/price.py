"""What a second of waiting is worth in memory, found so that the memory held in idle times meets a target.

With a fixed price the same rule is stingy on a quiet machine and wasteful on a busy one. Here every idle
time that ends moves the price a little, in proportion to what was held beyond, or short of, a share of what
a fixed time would have held: gradient ascent on the dual of "least waiting within so much memory".
"""

from __future__ import annotations

import math
from typing import Final

START_BYTES: Final = 450e9
"""A second of waiting is worth as much as so much memory held for a second, to begin with."""
FIXED_S: Final = 300.0
SHARE: Final = 0.76
"""Of what all would hold for a fixed time of `FIXED_S`."""
STEP: Final = 0.003
LARGEST_STEP: Final = 0.1
FADING: Final = 0.01
"""How much an idle time weighs in the mean of their sizes."""
RANGE: Final = 30.0
"""The price stays within so many times its start, up and down."""


class Price:
    """Of a second of waiting, in bytes held for a second."""

    def __init__(self, start_bytes: float = START_BYTES, *, share: float = SHARE, step: float = STEP) -> None:
        self._start_bytes = start_bytes
        self._share = share
        self._step = step
        self._log = 0.0
        self._usual = 0.0

    @property
    def bytes_per_wait(self) -> float:
        return self._start_bytes * math.exp(self._log)

    def book(self, *, size_bytes: int, gap_s: float, stay_s: float) -> None:
        """An idle time of `gap_s` is over, during which the model would stay for `stay_s`."""
        fixed = size_bytes * min(gap_s, FIXED_S)
        held = size_bytes * min(gap_s, stay_s)
        if fixed <= 0:
            return
        self._usual += (fixed - self._usual) * (FADING if self._usual else 1.0)
        step = self._step * (self._share * fixed - held) / self._usual
        limit = math.log(RANGE)
        self._log = min(max(self._log + min(max(step, -LARGEST_STEP), LARGEST_STEP), -limit), limit)
