"""How long an idle model stays in memory, from the idle times of its past.

Holding memory and making people wait are put on one scale by a price: a second of waiting is worth as
much as `price_bytes` of memory held for a second. Divided by the size of the model that is one number,
the break-even time: for so long its memory can be held for the price of one cold start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ekiben.contract import NOTABLE_GAP_S

LONGEST_S: Final = 4 * 3600.0
MARGIN: Final = 1.02
"""An idle time as long as a past one should just be outlived."""
ENOUGH_GAPS: Final = 3
FADING: Final = 0.94
"""What an idle time counts for, of what the next one does: a model's habits change."""
GUESS: Final = 0.9
"""One more idle time is imagined, this much of the break-even time long: it is worth outliving where holding
has cost little so far, so that a few short idle times do not pass for the whole truth."""
_WEIGHTS: Final = tuple(FADING**age for age in range(256))


def break_even_s(*, size_bytes: int, cold_cost_s: float, price_bytes: float) -> float:
    """How long a model can be held for the price of one cold start."""
    return math.inf if size_bytes <= 0 else price_bytes * cold_cost_s / size_bytes


def keep_alive_s(
    gaps_s: Sequence[float],
    *,
    break_even_s: float,
    least_s: float = NOTABLE_GAP_S,
    longest_s: float = LONGEST_S,
) -> float:
    """The keep-alive that would have cost least, memory and waiting together, over past idle times.

    `gaps_s` are the last ones, oldest first; the older, the less they count. With too few of them the model
    stays for its break-even time: never worse than twice what a clairvoyant would pay.
    """
    chosen_s = break_even_s
    if len(gaps_s) >= ENOUGH_GAPS and break_even_s < math.inf:
        chosen_s = _cheapest_s(gaps_s[-len(_WEIGHTS) :], break_even_s, least_s, longest_s)
    return min(max(chosen_s, least_s), longest_s)


def _cheapest_s(gaps_s: Sequence[float], break_even_s: float, least_s: float, longest_s: float) -> float:
    """Renewal theory: the cost of a keep-alive jumps down only at the idle times that it just outlives.

    Per unit of size, a keep-alive of t costs break_even * P(gap > t) + E[min(gap, t)].
    """
    weighted = [*zip(reversed(gaps_s), _WEIGHTS, strict=False), (GUESS * break_even_s, 1.0)]
    longer = total = sum(weight for _, weight in weighted)
    best_s, least_cost, sum_s = least_s, (break_even_s + least_s) * total, 0.0
    for gap_s, weight in sorted(weighted):
        if gap_s > longest_s:
            break
        longer -= weight
        sum_s += weight * gap_s
        cost = break_even_s * longer + sum_s + gap_s * longer
        if cost < least_cost:
            best_s, least_cost = gap_s * MARGIN, cost
    return best_s
