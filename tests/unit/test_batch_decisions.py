"""What leaves together, how large a batch may be and how long to wait: decided without threads or time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import Item
from ekiben.runtime.batching.jobs import Job
from ekiben.runtime.batching.pacing import LEAST_TARGET_S, Crowd, Expected, Pace, linger_s
from ekiben.runtime.batching.selection import Choice, Limits, Reason, choose


def job(
    lengths: Sequence[int],
    *,
    turn_s: float = 0.0,
    group: int = 0,
    lane: str = "embed",
    streamed: bool = False,
) -> Job:
    made = Job(lane, None, turn_s, streamed, done=None)  # type: ignore[arg-type]
    for length in lengths:
        made.add(Item(None, length=length, group=group))
    return made


def lengths(choice: Choice) -> list[int]:
    return [queued.length for _, queued in choice.picks]


def owners(choice: Choice) -> list[int]:
    return [index for index, _ in choice.picks]


JOBS = st.lists(
    st.builds(
        job,
        st.lists(st.integers(1, 100), min_size=1, max_size=20),
        turn_s=st.floats(0, 10),
        group=st.integers(0, 2),
        lane=st.sampled_from(["embed", "rerank"]),
        streamed=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
LIMITS = st.builds(
    Limits,
    items=st.integers(1, 32),
    area=st.just(math.inf) | st.floats(1, 500),
    padding=st.just(math.inf) | st.floats(0, 200),
    packed=st.booleans(),
)


@given(jobs=JOBS, limits=LIMITS)
def test_a_choice_keeps_all_limits_and_mixes_nothing(jobs: list[Job], limits: Limits) -> None:
    choice = choose(jobs, limits)
    assert 1 <= len(choice.picks) <= limits.items
    assert len({id(queued) for _, queued in choice.picks}) == len(choice.picks)
    assert len({(jobs[index].lane, queued.item.group) for index, queued in choice.picks}) == 1
    if len(choice.picks) > 1:
        assert choice.area <= limits.area
        assert choice.padding <= limits.padding


@given(jobs=JOBS, limits=LIMITS)
def test_who_has_waited_longest_is_in_it(jobs: list[Job], limits: Limits) -> None:
    oldest = min(range(len(jobs)), key=lambda index: (jobs[index].turn_s, index))
    assert owners(choose(jobs, limits))[0] == oldest


@given(jobs=JOBS, limits=LIMITS)
def test_streamed_items_leave_in_their_order(jobs: list[Job], limits: Limits) -> None:
    choice = choose(jobs, limits)
    for index, asked in enumerate(jobs):
        if asked.streamed:
            own = [queued.index for owner, queued in choice.picks if owner == index]
            assert own == list(range(len(own)))


@given(jobs=JOBS, limits=LIMITS)
def test_batch_after_batch_everything_leaves_once(jobs: list[Job], limits: Limits) -> None:
    total = sum(made.count for made in jobs)
    left = 0
    turn_s = 100.0
    while waiting := [made for made in jobs if made.waiting]:
        turn_s += 1
        for index, queued in choose(waiting, limits).picks:
            waiting[index].take(queued, now_s=turn_s)
            left += 1
    assert left == total


def test_each_request_has_an_equal_share() -> None:
    choice = choose([job([1] * 2048, turn_s=1), job([1], turn_s=2), job([1] * 9, turn_s=3)], Limits(items=8))
    assert sorted(owners(choice)) == [0, 0, 0, 0, 1, 2, 2, 2]
    assert choice.reason is Reason.FULL


def test_with_more_requests_than_places_the_oldest_have_them() -> None:
    jobs = [job([1], turn_s=float(turn_s)) for turn_s in (5, 3, 9, 1)]
    assert owners(choose(jobs, Limits(items=2))) == [3, 1]


def test_the_longest_go_first_and_their_likes_with_them() -> None:
    choice = choose([job([3, 50, 48, 2, 49])], Limits(items=8, padding=10))
    assert lengths(choice) == [50, 49, 48]
    assert choice.reason is Reason.PADDING


def test_the_nearest_in_length_go_along_before_those_who_came_earlier() -> None:
    jobs = [job([100]), job([20], turn_s=1.0), job([98], turn_s=2.0), job([60], turn_s=3.0)]
    assert owners(choose(jobs, Limits(items=2))) == [0, 2]
    assert owners(choose(jobs, Limits(items=3))) == [0, 2, 3]


def test_of_about_the_same_length_those_who_came_earlier_go_along() -> None:
    jobs = [job([100]), job([90], turn_s=1.0), job([100], turn_s=2.0)]
    assert owners(choose(jobs, Limits(items=2))) == [0, 1]


def test_where_nothing_is_padded_lengths_do_not_matter() -> None:
    jobs = [job([50], turn_s=1), job([3], turn_s=2), job([52], turn_s=3)]
    choice = choose(jobs, Limits(items=2, padding=0, packed=True))
    assert owners(choice) == [0, 1]
    assert (choice.area, choice.padding) == (53, 0)
    assert owners(choose(jobs, Limits(items=3, area=60, packed=True))) == [0, 1]


def test_padding_is_shared_by_the_whole_batch() -> None:
    jobs = [job([10], turn_s=0), job([12], turn_s=1), job([40], turn_s=2), job([11], turn_s=3)]
    choice = choose(jobs, Limits(items=8, padding=5))
    assert sorted(lengths(choice)) == [10, 11, 12]
    assert choice.padding == 3


@pytest.mark.parametrize(
    ("jobs", "limits", "reason"),
    [
        ([job([1, 1])], Limits(items=8), Reason.ALL),
        ([job([1, 1])], Limits(items=2), Reason.FULL),
        ([job([1, 1, 1])], Limits(items=2), Reason.FULL),
        ([job([5, 5, 5])], Limits(items=8, area=10), Reason.FULL),
        ([job([1]), job([1], group=1)], Limits(items=8), Reason.OTHERS),
        ([job([1]), job([1], lane="rerank")], Limits(items=8), Reason.OTHERS),
    ],
)
def test_why_it_leaves_as_it_is(jobs: list[Job], limits: Limits, reason: Reason) -> None:
    assert choose(jobs, limits).reason is reason


def learned(*, fixed_s: float, per_area_s: float, target_s: float | None = None) -> Pace:
    pace = Pace(target_s)
    for items in (1, 2, 4, 8, 5, 3, 7, 8):
        pace.computed(area=items, longest=1, seconds=fixed_s + items * per_area_s)
    return pace


@given(fixed_s=st.floats(0, 1), per_area_s=st.floats(1e-4, 1))
def test_what_batches_cost_is_learned(fixed_s: float, per_area_s: float) -> None:
    pace = learned(fixed_s=fixed_s, per_area_s=per_area_s)
    for items in (1, 8, 32):
        assert pace.predicted_s(items) == pytest.approx(fixed_s + items * per_area_s, rel=0.01, abs=1e-6)


def test_the_first_batches_are_small() -> None:
    pace = Pace()
    seen = []
    for _ in range(5):
        limits = pace.limits(max_items=64, max_length=None)
        seen.append(limits.items)
        pace.computed(area=limits.items, longest=1, seconds=0.02 + 0.001 * limits.items)
    assert seen == [1, 2, 4, 8, 64]


@given(fixed_s=st.floats(0, 0.1), per_area_s=st.floats(1e-4, 0.1), target_s=st.none() | st.floats(0.01, 1))
def test_a_batch_keeps_to_its_time_unless_one_item_takes_more(
    fixed_s: float, per_area_s: float, target_s: float | None
) -> None:
    pace = learned(fixed_s=fixed_s, per_area_s=per_area_s, target_s=target_s)
    area = pace.limits(max_items=10**6, max_length=None).area
    single_s = fixed_s + per_area_s
    allowed_s = target_s if target_s is not None else max(LEAST_TARGET_S, 8 * single_s)
    assert fixed_s + area * per_area_s <= max(allowed_s, single_s) * 1.02 + 1e-4


def test_with_much_waiting_a_batch_may_take_longer() -> None:
    pace = learned(fixed_s=0.0, per_area_s=0.001)
    few = pace.limits(max_items=64, max_length=None, waiting=10).area
    assert pace.limits(max_items=64, max_length=None, waiting=10_000).area == 2500 > few
    assert pace.limits(max_items=64, max_length=1000, waiting=10_000).area == 1000


def test_batches_of_one_size_make_the_pace_follow_a_machine_that_slows_down() -> None:
    pace = learned(fixed_s=0.02, per_area_s=0.001)
    for _ in range(200):
        pace.computed(area=8, longest=1, seconds=0.056)
    assert pace.predicted_s(8) == pytest.approx(0.056, rel=0.05)


def crowd_of(clients: int, *, batches: int = 40, back_after_s: float = 0.002) -> tuple[Crowd, float]:
    """All are answered together, again and again, and come back one after the other."""
    crowd, now_s = Crowd(), 0.0
    for _ in range(batches):
        now_s += 0.03
        crowd.answered(now_s, requests=clients)
        for number in range(clients):
            crowd.came(now_s + back_after_s * (number + 1) / clients)
    now_s += 0.03
    crowd.answered(now_s, requests=clients)
    return crowd, now_s


def lingers_s(crowd: Crowd, now_s: float, *, waiting: int = 1) -> float:
    return linger_s(crowd.expected(now_s), waiting=waiting, batch_s=0.021, fixed_s=0.02)


def test_nobody_waits_for_others_who_are_not_there() -> None:
    crowd, now_s = crowd_of(1)
    crowd.came(now_s + 0.001)
    assert crowd.expected(now_s + 0.001).more == 0
    assert lingers_s(crowd, now_s + 0.001) == 0


def test_the_first_of_a_crowd_waits_for_the_rest_of_it() -> None:
    crowd, now_s = crowd_of(8)
    crowd.came(now_s + 0.0003)
    assert crowd.expected(now_s + 0.0003).more == pytest.approx(7, abs=0.2)
    assert 0.001 < lingers_s(crowd, now_s + 0.0003) < 0.021 / 2


def test_two_halves_of_a_crowd_find_each_other() -> None:
    crowd, now_s = crowd_of(4, back_after_s=0.008)
    assert lingers_s(crowd, now_s, waiting=4) > 0.004


def test_those_who_have_not_come_in_time_are_not_waited_for() -> None:
    crowd, now_s = crowd_of(8)
    assert lingers_s(crowd, now_s + 0.02) == 0


def test_a_crowd_that_is_held_up_comes_late_together() -> None:
    crowd, now_s = crowd_of(8)
    crowd.came(now_s + 0.02)
    assert 0 < lingers_s(crowd, now_s + 0.02) < 0.01


def test_clients_who_take_their_time_are_not_waited_for() -> None:
    crowd, now_s = crowd_of(8, back_after_s=10.0)
    crowd.came(now_s + 0.0003)
    assert lingers_s(crowd, now_s + 0.0003) == 0


def test_one_who_is_late_is_waited_for_as_long_as_that_is_worth() -> None:
    """They come within microseconds of each other, and the last of eight a millisecond after."""
    crowd, now_s = crowd_of(8, back_after_s=0.0001)
    for _ in range(7):
        crowd.came(now_s + 0.0001)
    assert lingers_s(crowd, now_s + 0.0002, waiting=7) > 0.001
    assert lingers_s(crowd, now_s + 0.0002, waiting=7) < 0.021 / 8
    assert lingers_s(crowd, now_s + 0.003, waiting=7) == 0


def test_a_pause_of_all_is_not_taken_for_the_rule() -> None:
    crowd, now_s = crowd_of(8, back_after_s=0.001)
    for _ in range(8):
        crowd.came(now_s + 3600)
    assert crowd.after_s < 0.005
    assert crowd.apart_s < 0.005


def test_a_new_pace_becomes_the_rule() -> None:
    crowd, now_s = crowd_of(8, back_after_s=0.001)
    for _ in range(20):
        now_s += 0.03
        crowd.answered(now_s, requests=8)
        for number in range(8):
            crowd.came(now_s + 0.01 + 0.0001 * number)
    assert crowd.after_s == pytest.approx(0.01, rel=0.1)
    assert crowd.apart_s < 0.001


@given(
    waiting=st.integers(1, 64),
    more=st.floats(0, 64),
    soon_s=st.floats(0, 10),
    late_s=st.floats(-10, 10),
    apart_s=st.floats(0, 1),
    batch_s=st.none() | st.floats(0, 10),
    fixed_share=st.floats(0, 1),
)
def test_lingering_never_costs_more_than_the_batch_it_saves(
    waiting: int,
    more: float,
    soon_s: float,
    late_s: float,
    apart_s: float,
    batch_s: float | None,
    fixed_share: float,
) -> None:
    expected = Expected(more, soon_s=soon_s, late_s=late_s, apart_s=apart_s)
    fixed_s = fixed_share * (batch_s or 0)
    if lingering_s := linger_s(expected, waiting=waiting, batch_s=batch_s, fixed_s=fixed_s):
        assert batch_s is not None and soon_s < batch_s and more >= 0.25
        assert late_s + lingering_s <= max(batch_s / 2, 3 * apart_s) + 1e-9
