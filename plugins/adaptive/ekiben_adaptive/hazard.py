"""How soon an idle model will be used again, judged by those of its past idle times that lasted longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RECENT: Final = 16
"""Of so many past idle times."""
BLUR_S: Final = 60.0
"""Nobody comes back to the second: a use that is due any moment counts as due in so long."""
GUESSES: Final = 2.0
"""A model with no such past is guessed to stay idle for as long again; this counts as so many idle times."""


def hazard(gaps_s: Sequence[float], *, idle_s: float) -> float:
    """The mean of one over the time that is left until the next use."""
    due = [1 / (gap_s - idle_s + BLUR_S) for gap_s in gaps_s[-RECENT:] if gap_s > idle_s]
    return (sum(due) + GUESSES / (idle_s + BLUR_S)) / (len(due) + GUESSES)
