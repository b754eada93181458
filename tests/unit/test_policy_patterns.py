"""One model after another: which patterns are believed, and what trying them would have brought."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.fleet.policy.patterns import (
    LEAST_HOLD_S,
    LONGEST_WINDOW_S,
    Balance,
    Burden,
    back_test,
    find_pattern,
)

HOUR = 3600.0
SMALL = Burden(size_bytes=200_000_000, cold_cost_s=2.0, keep_alive_s=300.0)
HOURLY = [HOUR * n for n in range(20)]


def after(leads: list[float], delay_s: float) -> list[float]:
    return [at + delay_s for at in leads]


def test_a_model_that_always_follows_is_worth_starting_ahead() -> None:
    pattern = find_pattern(HOURLY, after(HOURLY, 20.0), burden=SMALL)
    assert pattern is not None
    assert pattern.window_s == LEAST_HOLD_S
    assert pattern.trial.share == 1.0
    assert pattern.trial.saved_s == pytest.approx(pattern.trial.hits * 2.0)
    assert pattern.trial.byte_seconds == pytest.approx(pattern.trial.hits * 20.0 * SMALL.size_bytes)


def test_the_window_reaches_as_far_as_the_delays_do() -> None:
    delays = [100.0, 200.0, 150.0, 120.0] * 5
    follows = [at + delay for at, delay in zip(HOURLY, delays, strict=True)]
    pattern = find_pattern(HOURLY, follows, burden=SMALL)
    assert pattern is not None
    assert 200.0 < pattern.window_s < 250.0


def test_a_model_with_a_life_of_its_own_does_not_follow() -> None:
    rng = random.Random(1)
    follows = sorted(rng.uniform(0, 20 * HOUR) for _ in range(20))
    assert find_pattern(HOURLY, follows, burden=SMALL) is None


def test_following_now_and_then_is_not_enough() -> None:
    assert find_pattern(HOURLY, after(HOURLY[::3], 20.0), burden=SMALL) is None


def test_too_little_history_is_no_pattern() -> None:
    assert find_pattern(HOURLY[:5], after(HOURLY[:5], 20.0), burden=SMALL) is None
    assert find_pattern([], [], burden=SMALL) is None


def test_a_habit_that_was_given_up_is_no_pattern() -> None:
    """It held in the part it is learned from: the newer part has the last word."""
    follows = after(HOURLY[:12], 20.0)
    assert find_pattern(HOURLY[:12], follows, burden=SMALL) is not None
    assert find_pattern(HOURLY, follows, burden=SMALL) is None


def test_what_nobody_waits_for_is_not_worth_the_memory() -> None:
    huge = Burden(size_bytes=200_000_000_000, cold_cost_s=0.5, keep_alive_s=300.0)
    assert find_pattern(HOURLY, after(HOURLY, 20.0), burden=huge) is None
    cheap_memory = find_pattern(HOURLY, after(HOURLY, 20.0), burden=huge, price_bytes=1e14)
    assert cheap_memory is not None


def test_a_model_that_is_still_warm_needs_no_foresight() -> None:
    warm = Burden(size_bytes=200_000_000, cold_cost_s=2.0, keep_alive_s=2 * HOUR)
    assert find_pattern(HOURLY, after(HOURLY, 20.0), burden=warm) is None


def test_later_is_not_because_of_it() -> None:
    assert find_pattern(HOURLY, after(HOURLY, LONGEST_WINDOW_S + 60), burden=SMALL) is None


def test_the_back_test_counts_hits_waiting_and_memory() -> None:
    leads = [0.0, 1000.0, 2000.0]
    follows = [50.0, 2001.0]
    balance = back_test(leads, follows, window_s=100.0, burden=SMALL)
    # 2 s spared, nobody came, 1 s of 2 spared
    assert (balance.prewarms, balance.hits, balance.saved_s) == (3, 2, 3.0)
    assert balance.byte_seconds == (50.0 + 100.0 + 1.0) * SMALL.size_bytes


def test_the_back_test_does_not_start_what_is_there() -> None:
    leads = [0.0, 30.0, 200.0, 1000.0]
    follows = [40.0]
    balance = back_test(leads, follows, window_s=100.0, burden=SMALL)
    # at 30 it is started ahead already, at 200 it is warm from its use at 40
    assert (balance.prewarms, balance.hits) == (2, 1)


MOMENTS = st.lists(st.integers(0, 50_000), max_size=60).map(lambda xs: sorted(map(float, xs)))
BURDENS = st.builds(
    Burden,
    size_bytes=st.integers(0, 10**11),
    cold_cost_s=st.floats(0, 100),
    keep_alive_s=st.floats(0, 5000),
)


@given(MOMENTS, MOMENTS, st.floats(1.0, 2000.0), BURDENS)
def test_the_books_balance(leads: list[float], follows: list[float], window_s: float, burden: Burden) -> None:
    balance = back_test(leads, follows, window_s=window_s, burden=burden)
    hold_s = max(window_s, LEAST_HOLD_S)
    assert 0 <= balance.hits <= balance.prewarms <= len(leads)
    assert balance.hits <= len(set(follows))
    assert 0 <= balance.saved_s <= balance.hits * burden.cold_cost_s * (1 + 1e-9)
    assert balance.byte_seconds <= balance.prewarms * hold_s * burden.size_bytes * (1 + 1e-9)


@given(MOMENTS, MOMENTS, BURDENS, st.integers(0, 10**6))
def test_only_what_gained_on_arrivals_it_had_not_seen_is_a_pattern(
    leads: list[float], follows: list[float], burden: Burden, shift: int
) -> None:
    pattern = find_pattern(leads, follows, burden=burden, price_bytes=1e12)
    if pattern is not None:
        assert pattern.trial.gain_s(price_bytes=1e12) > 0
        assert pattern.trial.share >= 0.5
    moved = find_pattern(
        [at + shift for at in leads], [at + shift for at in follows], burden=burden, price_bytes=1e12
    )
    assert (moved is None) == (pattern is None), "only differences of times may count"


def test_an_empty_balance_is_never_right() -> None:
    assert Balance().share == 0.0
    assert Balance().gain_s(price_bytes=1.0) == 0.0
