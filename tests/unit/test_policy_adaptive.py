"""How long an idle model stays: the formulas by hand, and against trying everything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben_adaptive.renewal import MARGIN, break_even_s, keep_alive_s


def cost(tau_s: float, gaps_s: Sequence[float], break_even: float) -> float:
    """J(tau), per unit of size, straight from its definition."""
    cold = sum(gap > tau_s for gap in gaps_s) / len(gaps_s)
    return break_even * cold + sum(min(gap, tau_s) for gap in gaps_s) / len(gaps_s)


def test_break_even_is_when_holding_has_cost_a_cold_start() -> None:
    assert break_even_s(size_bytes=4 * 10**9, cold_cost_s=5.0, price_bytes=200e9) == 250.0
    assert math.isinf(break_even_s(size_bytes=0, cold_cost_s=5.0))


def test_with_few_idle_times_it_breaks_even() -> None:
    assert keep_alive_s([], break_even_s=250.0) == 250.0
    assert keep_alive_s([900.0, 900.0], break_even_s=250.0) == 250.0
    assert keep_alive_s([], break_even_s=1.0, least_s=30.0) == 30.0
    assert keep_alive_s([], break_even_s=1e9, longest_s=14400.0) == 14400.0


def test_it_outlives_the_idle_times_that_are_worth_it() -> None:
    """Idle for 100 s twice and for 1000 s once, break-even at 300 s:

    leave at once      300
    outlive 100 s      300 / 3 + 100            = 200
    outlive 1000 s     (100 + 100 + 1000) / 3   = 400
    """
    assert keep_alive_s([100.0, 1000.0, 100.0], break_even_s=300.0, least_s=0.0) == pytest.approx(102.0)


def test_it_leaves_at_once_when_idle_times_are_long_and_memory_is_dear() -> None:
    assert keep_alive_s([500.0, 600.0, 700.0], break_even_s=300.0, least_s=0.0) == 0.0
    assert keep_alive_s([500.0, 600.0, 700.0], break_even_s=300.0, least_s=30.0) == 30.0


def test_it_stays_through_when_a_cold_start_is_dear() -> None:
    assert keep_alive_s([500.0, 600.0, 700.0], break_even_s=3000.0) == pytest.approx(714.0)


def test_idle_times_beyond_the_cap_are_not_outlived() -> None:
    assert keep_alive_s([100.0, 100.0, 20_000.0], break_even_s=1e7, longest_s=14_400.0) == 102.0
    assert keep_alive_s([14_390.0] * 3, break_even_s=1e7, longest_s=14_400.0) == 14_400.0


gaps = st.lists(st.integers(0, 2000).map(float), min_size=3, max_size=30)


@given(gaps, st.floats(0, 3000))
def test_no_keep_alive_would_have_cost_less(gaps_s: list[float], break_even: float) -> None:
    chosen_s = keep_alive_s(gaps_s, break_even_s=break_even, least_s=0.0) / MARGIN
    grid = [*gaps_s, *(step * 10.0 for step in range(201))]
    # a tiny push, so that dividing by the margin does not fall just short of the idle time it outlives
    best = min(cost(tau_s, gaps_s, break_even) for tau_s in grid)
    assert cost(chosen_s + 1e-6, gaps_s, break_even) <= best + 1e-5


@given(gaps, st.floats(0, 1e6), st.randoms(use_true_random=False))
def test_it_is_within_its_bounds_and_the_order_does_not_matter(gaps_s, break_even, random) -> None:  # type: ignore[no-untyped-def]
    chosen_s = keep_alive_s(gaps_s, break_even_s=break_even)
    assert 30.0 <= chosen_s <= 14_400.0
    shuffled = random.sample(gaps_s, len(gaps_s))
    assert keep_alive_s(shuffled, break_even_s=break_even) == chosen_s


@given(gaps, st.integers(0, 10_000).map(float), st.integers(0, 10_000).map(float))
def test_a_dearer_cold_start_never_shortens_it(gaps_s: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert keep_alive_s(gaps_s, break_even_s=low) <= keep_alive_s(gaps_s, break_even_s=high)
