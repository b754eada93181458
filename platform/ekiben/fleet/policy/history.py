"""What a model's past tells: how often it is used, and how long it is idle in between.

A `History` is a plain immutable value that outlives the model's replicas; whoever owns it replaces it
at each use and at the end of each idle time. It can be written down as its fields
(`dataclasses.asdict`), and its times are on the clock of those who call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ekiben.contract.policy import NOTABLE_GAP_S

HALF_LIFE_S: Final = 300.0
"""After so long a use counts half. Much longer, and a burst that is over keeps its model in memory."""
GAPS_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class History:
    """The uses of one model, decayed, and its last idle times."""

    uses: float = 0.0
    """The decayed number of uses at `used_at_s`."""
    used_at_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    """Idle times, from the end of the last request to the start of the next, oldest first."""

    def rate(self, now: float, *, half_life_s: float = HALF_LIFE_S) -> float:
        """Uses in the last half-lives, each worth half of one that is a half-life younger."""
        age_s = now - self.used_at_s
        return self.uses if age_s <= 0 else self.uses * 2.0 ** (-age_s / half_life_s)

    def after_use(self, now: float, *, half_life_s: float = HALF_LIFE_S) -> History:
        """With one more use."""
        return History(self.rate(now, half_life_s=half_life_s) + 1.0, now, self.gaps_s)

    def after_idling(self, gap_s: float) -> History:
        """With one more idle time, if it is long enough to tell something; the oldest makes room."""
        if gap_s < NOTABLE_GAP_S:
            return self
        return History(self.uses, self.used_at_s, (*self.gaps_s, gap_s)[-GAPS_KEPT:])
