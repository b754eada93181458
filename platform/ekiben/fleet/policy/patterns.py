"""Whether one model follows another so reliably that it pays to start it ahead.

A pattern is `B comes within a window after A`. It is learned from the older part of the two models' own
arrivals and tried on the newer part: what it would have saved in waiting is held against the memory that
it would have held, at the policy's price. Only a pattern that gains there is one. Pure functions.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

PRICE_BYTES: Final = 550e9
"""A second of waiting is worth so many bytes held for a second; the default policy's price."""

LEAST_SHARE: Final = 0.5
"""Prewarming must be right at least so often."""
LONGEST_WINDOW_S: Final = 600.0
"""Who comes later did not come because of the first."""
LEAST_HOLD_S: Final = 60.0
"""A model that was started ahead stays at least so long, in the fleet as in the back-test."""
LEADS_KEPT: Final = 60
"""The arrivals of the first model that are looked at, the newest."""
LEAST_HITS: Final = 3
"""As often a pattern must have been right, in the part it is learned from and in the part it is tried on."""
LEARNED_SHARE: Final = 0.6
MARGIN: Final = 1.1
"""The window is a little longer than the longest delay for which it is meant."""


@dataclass(frozen=True, slots=True)
class Burden:
    """What it costs to have a model and not to have it."""

    size_bytes: int
    cold_cost_s: float
    """How long the first request waits when it is cold."""
    keep_alive_s: float
    """How long it stays after a use, without anybody's foresight."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What starting ahead would have brought over some time."""

    prewarms: int = 0
    hits: int = 0
    saved_s: float = 0.0
    """Waiting, of all requests."""
    byte_seconds: float = 0.0
    """Memory, over what would have been held anyway."""

    def gain_s(self, *, price_bytes: float) -> float:
        """In seconds of waiting."""
        return self.saved_s - self.byte_seconds / price_bytes

    @property
    def share(self) -> float:
        """How often it was right."""
        return self.hits / self.prewarms if self.prewarms else 0.0


@dataclass(frozen=True, slots=True)
class Pattern:
    """The second model is worth starting when the first one is asked for."""

    window_s: float
    """For how long it is then held."""
    trial: Balance
    """On arrivals that it was not learned from."""


def find_pattern(
    leads: Sequence[float], follows: Sequence[float], *, burden: Burden, price_bytes: float = PRICE_BYTES
) -> Pattern | None:
    """The pattern that the arrivals of two models show, or None if it would not have paid.

    Both ascend, on one clock.
    """
    if not follows:
        return None
    told = [at for at in leads if at >= follows[0]][-LEADS_KEPT:]
    cut = math.ceil(len(told) * LEARNED_SHARE)
    older, newer = told[:cut], told[cut:]
    if len(older) < LEAST_HITS or len(newer) < LEAST_HITS:
        return None
    known = follows[: bisect_right(follows, newer[0])]
    window_s = _best_window_s(older, known, burden, price_bytes)
    if window_s is None:
        return None
    trial = back_test(newer, follows, window_s=window_s, burden=burden)
    return Pattern(window_s, trial) if _pays(trial, price_bytes) else None


def back_test(
    leads: Sequence[float], follows: Sequence[float], *, window_s: float, burden: Burden
) -> Balance:
    """Start the second model at each arrival of the first, if it is cold then, and hold it for the window."""
    prewarms = hits = 0
    saved_s = held_s = 0.0
    hold_s = max(window_s, LEAST_HOLD_S)
    started_at = -math.inf
    for at in leads:
        position = bisect_right(follows, at)
        last = follows[position - 1] if position else -math.inf
        if at <= last + burden.keep_alive_s or (last <= started_at and at <= started_at + hold_s):
            continue  # it is there already: from its last use, or started ahead and not used yet
        prewarms += 1
        started_at = at
        delay_s = follows[position] - at if position < len(follows) else math.inf
        if delay_s <= hold_s:
            hits += 1
            saved_s += min(burden.cold_cost_s, delay_s)
        held_s += min(delay_s, hold_s)
    return Balance(prewarms, hits, saved_s, held_s * burden.size_bytes)


def _best_window_s(
    leads: Sequence[float], follows: Sequence[float], burden: Burden, price_bytes: float
) -> float | None:
    """Only windows that just catch one of the delays need be tried."""
    best: tuple[float, float] | None = None
    for window_s in sorted({_window_s(delay_s) for delay_s in _delays_s(leads, follows)}):
        balance = back_test(leads, follows, window_s=window_s, burden=burden)
        gain_s = balance.gain_s(price_bytes=price_bytes)
        if _pays(balance, price_bytes) and (best is None or gain_s > best[0]):
            best = (gain_s, window_s)
    return None if best is None else best[1]


def _delays_s(leads: Sequence[float], follows: Sequence[float]) -> Iterator[float]:
    for at in leads:
        position = bisect_right(follows, at)
        if position < len(follows) and follows[position] - at <= LONGEST_WINDOW_S:
            yield follows[position] - at


def _window_s(delay_s: float) -> float:
    """Rounded up to steps of a tenth, so that there are few."""
    stretched = max(delay_s * MARGIN, LEAST_HOLD_S)
    return LEAST_HOLD_S * 1.1 ** math.ceil(math.log(stretched / LEAST_HOLD_S) / math.log(1.1) - 1e-9)


def _pays(balance: Balance, price_bytes: float) -> bool:
    return (
        balance.hits >= LEAST_HITS
        and balance.share >= LEAST_SHARE
        and balance.gain_s(price_bytes=price_bytes) > 0
    )
