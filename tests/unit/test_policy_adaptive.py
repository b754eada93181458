"""The default policy: its formulas by hand, against trying everything, and how it learns its price."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import Idle, Resident
from ekiben_adaptive.hazard import BLUR_S, hazard
from ekiben_adaptive.policy import MODELS_KEPT, Adaptive
from ekiben_adaptive.price import FIXED_S, RANGE, SHARE, START_BYTES, Price
from ekiben_adaptive.renewal import FADING, GUESS, MARGIN, break_even_s, keep_alive_s


def cost(tau_s: float, gaps_s: Sequence[float], break_even: float) -> float:
    """J(tau), per unit of size, straight from its definition."""
    weights = [*(FADING**age for age in reversed(range(len(gaps_s)))), 1.0]
    costs = [break_even * (gap > tau_s) + min(gap, tau_s) for gap in (*gaps_s, GUESS * break_even)]
    return sum(weight * cost for weight, cost in zip(weights, costs, strict=True)) / sum(weights)


def test_break_even_is_when_holding_has_cost_a_cold_start() -> None:
    assert break_even_s(size_bytes=4 * 10**9, cold_cost_s=5.0, price_bytes=200e9) == 250.0
    assert math.isinf(break_even_s(size_bytes=0, cold_cost_s=5.0, price_bytes=1.0))


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
    assert keep_alive_s([500.0, 600.0, 700.0], break_even_s=3000.0) == pytest.approx(GUESS * 3000.0 * MARGIN)


def test_a_few_short_idle_times_do_not_pass_for_the_whole_truth() -> None:
    """Holding has cost nothing yet: it stays as long as it would without a past."""
    assert keep_alive_s([40.0, 31.0, 35.0], break_even_s=1000.0) == pytest.approx(GUESS * 1000.0 * MARGIN)


def test_what_takes_no_memory_stays() -> None:
    assert keep_alive_s([40.0, 31.0, 5000.0], break_even_s=math.inf) == 14_400.0


def test_idle_times_beyond_the_cap_are_not_outlived() -> None:
    assert keep_alive_s([100.0, 100.0, 20_000.0], break_even_s=1e7, longest_s=14_400.0) == 102.0
    assert keep_alive_s([14_390.0] * 3, break_even_s=1e7, longest_s=14_400.0) == 14_400.0


gaps = st.lists(st.integers(0, 2000).map(float), min_size=3, max_size=30)


@given(gaps, st.floats(0, 3000))
def test_no_keep_alive_would_have_cost_less(gaps_s: list[float], break_even: float) -> None:
    chosen_s = keep_alive_s(gaps_s, break_even_s=break_even, least_s=0.0) / MARGIN
    grid = [*gaps_s, GUESS * break_even, *(step * 25.0 for step in range(81))]
    # a tiny push, so that dividing by the margin does not fall just short of the idle time it outlives
    best = min(cost(tau_s, gaps_s, break_even) for tau_s in grid)
    assert cost(chosen_s + 1e-6, gaps_s, break_even) <= best + 1e-5


@given(gaps, st.floats(0, 1e6))
def test_it_is_within_its_bounds(gaps_s: list[float], break_even: float) -> None:
    assert 30.0 <= keep_alive_s(gaps_s, break_even_s=break_even) <= 14_400.0


def test_what_was_lately_counts_for_more() -> None:
    """The same idle times; it outlives those of a minute when they are the latest."""
    short, long = [60.0] * 20, [1000.0] * 20
    assert keep_alive_s(long + short, break_even_s=100.0) == pytest.approx(61.2)
    assert keep_alive_s(short + long, break_even_s=100.0) == 30.0


def test_a_dearer_cold_start_lengthens_it() -> None:
    gaps_s = [60.0, 1000.0, 60.0, 300.0, 60.0]
    chosen = [keep_alive_s(gaps_s, break_even_s=limit_s) for limit_s in (10.0, 200.0, 10_000.0)]
    assert chosen == [30.0, pytest.approx(60.0 * MARGIN), pytest.approx(GUESS * 10_000.0 * MARGIN)]


# Victims


def test_the_hazard_by_hand() -> None:
    """After 40 s, of three past idle times two lasted longer: by 20 s and by 60 s. Two guesses of 40 s."""
    expected = (1 / (20 + BLUR_S) + 1 / (60 + BLUR_S) + 2 / (40 + BLUR_S)) / 4
    assert hazard((30.0, 60.0, 100.0), idle_s=40.0) == pytest.approx(expected)
    assert hazard((), idle_s=0.0) == 1 / BLUR_S


def resident(name: str = "m", *, rate: float = 1.0, idle_s: float = 50.0, **rest: object) -> Resident:
    values: dict[str, object] = {"size_bytes": 10**9, "cold_cost_s": 2.0, "gaps_s": ()}
    return Resident(name, rate=rate, last_use_s=-idle_s, idle_s=idle_s, **(values | rest))  # type: ignore[arg-type]


def test_worth_is_what_is_spared() -> None:
    policy = Adaptive()
    usual = policy.worth(resident())
    assert policy.worth(resident(cold_cost_s=4.0)) == pytest.approx(2 * usual)
    assert policy.worth(resident(size_bytes=2 * 10**9)) == pytest.approx(usual / 2)
    assert policy.worth(resident(rate=4.0)) == pytest.approx(2 * usual)
    assert policy.worth(resident(idle_s=500.0)) < usual
    assert policy.worth(resident(gaps_s=(60.0,) * 8)) > usual, "it is due any moment"
    assert policy.worth(resident(gaps_s=(9000.0,) * 8)) < usual, "it is not due for hours"


def test_an_idle_process_is_worth_more_the_more_often_it_is_used_and_the_more_it_spares() -> None:
    """A warm process without a model has no idle times on record: its rate and its savings decide."""
    policy = Adaptive()
    spares = [(rate, saved_s) for rate in (0.5, 2.0) for saved_s in (0.5, 3.0)]
    worths = [policy.worth(resident(rate=rate, cold_cost_s=saved_s)) for rate, saved_s in spares]
    assert worths[0] < worths[1] < worths[3] and worths[0] < worths[2] < worths[3]


# The price


def settle(price: Price, gaps_s: Sequence[float], *, rounds: int) -> float:
    """The share of what a fixed time would have held, in the second half of the rounds."""
    held = fixed = 0.0
    for turn in range(rounds):
        for gap_s in gaps_s:
            stay_s = min(price.bytes_per_wait / START_BYTES * 200.0, 3600.0)
            price.book(size_bytes=10**9, gap_s=gap_s, stay_s=stay_s)
            if turn >= rounds // 2:
                held += min(gap_s, stay_s)
                fixed += min(gap_s, FIXED_S)
    return held / fixed


@pytest.mark.parametrize("gaps_s", [[40.0, 250.0], [100.0, 4000.0, 900.0], [31.0] * 9 + [3000.0]])
def test_the_price_makes_the_target_be_met(gaps_s: list[float]) -> None:
    assert settle(Price(), gaps_s, rounds=4000) == pytest.approx(SHARE, abs=0.03)


def test_who_holds_too_much_values_waiting_less_and_the_other_way_round() -> None:
    price = Price()
    price.book(size_bytes=10**9, gap_s=5000.0, stay_s=4000.0)
    assert price.bytes_per_wait < START_BYTES
    price = Price()
    price.book(size_bytes=10**9, gap_s=5000.0, stay_s=30.0)
    assert price.bytes_per_wait > START_BYTES


def test_the_price_stays_within_its_range_and_nothing_teaches_nothing() -> None:
    price = Price()
    price.book(size_bytes=0, gap_s=100.0, stay_s=100.0)
    assert price.bytes_per_wait == START_BYTES
    for stay_s, limit in ((0.0, START_BYTES * RANGE), (1e6, START_BYTES / RANGE)):
        for _ in range(5000):
            price.book(size_bytes=10**9, gap_s=1e6, stay_s=stay_s)
        assert price.bytes_per_wait == pytest.approx(limit)


def test_an_idle_time_is_learned_from_once() -> None:
    """Asked again with the same past, it says the same; with one more idle time the price has moved."""
    policy, past = Adaptive(), (100.0, 2000.0, 3000.0)
    first = policy.keep_alive_s(Idle("m", 10**9, 5.0, past))
    again = [policy.keep_alive_s(Idle("m", 10**9, 5.0, past)) for _ in range(50)]
    assert set(again) == {first}
    price = policy.price.bytes_per_wait
    assert price == START_BYTES
    policy.keep_alive_s(Idle("m", 10**9, 5.0, (*past, 5000.0)))
    assert policy.price.bytes_per_wait != price


def test_models_that_are_long_gone_are_forgotten() -> None:
    policy = Adaptive()
    for number in range(MODELS_KEPT + 5):
        policy.keep_alive_s(Idle(f"m{number}", 10**9, 5.0, ()))
    policy.keep_alive_s(Idle("m0", 10**9, 5.0, (100.0,)))
    assert policy.price.bytes_per_wait == START_BYTES, "nothing was said of it"
    policy.keep_alive_s(Idle("m9", 10**9, 5.0, (100.0,)))
    assert policy.price.bytes_per_wait != START_BYTES
