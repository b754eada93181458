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

PRICE_BYTES: Final = 550e9
"""Where models get 100 recorded requests a day, less waiting and less memory than 5 minutes for all."""
LONGEST_S: Final = 4 * 3600.0
MARGIN: Final = 1.02
"""An idle time as long as a past one should just be outlived."""
ENOUGH_GAPS: Final = 3


def break_even_s(*, size_bytes: int, cold_cost_s: float, price_bytes: float = PRICE_BYTES) -> float:
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

    `gaps_s` come in any order, none shorter than `least_s`. With too few of them the model stays for its
    break-even time: never worse than twice what a clairvoyant would pay.
    """
    if len(gaps_s) < ENOUGH_GAPS:
        return min(max(break_even_s, least_s), longest_s)
    return min(max(_cheapest_s(gaps_s, break_even_s, least_s, longest_s), least_s), longest_s)


def _cheapest_s(gaps_s: Sequence[float], break_even_s: float, least_s: float, longest_s: float) -> float:
    """Renewal theory: the cost of a keep-alive jumps down only at the idle times that it just outlives.

    Per unit of size, a keep-alive of t costs break_even * P(gap > t) + E[min(gap, t)].
    """
    count = len(gaps_s)
    best_s, least_cost, sum_s = least_s, break_even_s + least_s, 0.0
    for position, gap_s in enumerate(sorted(gaps_s), start=1):
        if gap_s > longest_s:
            break
        sum_s += gap_s
        longer = count - position
        cost = (break_even_s * longer + sum_s + gap_s * longer) / count
        if cost < least_cost:
            best_s, least_cost = gap_s * MARGIN, cost
    return best_s
