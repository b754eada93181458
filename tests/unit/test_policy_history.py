"""A model's past: what is remembered, and how it fades."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import NOTABLE_GAP_S
from ekiben.fleet.policy.history import GAPS_KEPT, History


def test_a_use_counts_half_after_the_half_life() -> None:
    history = History().after_use(100.0, half_life_s=50.0)
    assert history.rate(100.0, half_life_s=50.0) == 1.0
    assert history.rate(150.0, half_life_s=50.0) == 0.5
    assert history.after_use(150.0, half_life_s=50.0).rate(200.0, half_life_s=50.0) == 0.75


def test_a_model_that_was_never_used_has_no_rate() -> None:
    assert History().rate(1e9) == 0.0


def test_a_clock_that_has_not_moved_forgets_nothing() -> None:
    history = History().after_use(10.0).after_use(10.0)
    assert history.rate(10.0) == history.rate(9.0) == 2.0


def test_only_notable_idle_times_are_remembered_and_the_oldest_make_room() -> None:
    history = History().after_idling(NOTABLE_GAP_S - 1)
    assert history.gaps_s == ()
    for number in range(GAPS_KEPT + 3):
        history = history.after_idling(100.0 + number)
    assert history.gaps_s == tuple(100.0 + number for number in range(3, GAPS_KEPT + 3))


def test_uses_and_idle_times_do_not_disturb_each_other() -> None:
    history = History().after_use(5.0).after_idling(60.0).after_use(70.0)
    assert history.gaps_s == (60.0,)
    assert history.used_at_s == 70.0


def test_it_can_be_written_down_and_read_again() -> None:
    history = History().after_use(5.0).after_idling(60.0)
    fields = json.loads(json.dumps(asdict(history)))
    assert History(fields["uses"], fields["used_at_s"], tuple(fields["gaps_s"])) == history


@given(st.lists(st.floats(0.0, 1e5), min_size=1), st.floats(1.0, 1e5))
def test_the_rate_is_the_sum_of_the_faded_uses(times: list[float], half_life_s: float) -> None:
    history = History()
    for time in sorted(times):
        history = history.after_use(time, half_life_s=half_life_s)
    now = max(times) + 10.0
    expected = sum(2.0 ** ((time - now) / half_life_s) for time in times)
    assert history.rate(now, half_life_s=half_life_s) == pytest.approx(expected)
