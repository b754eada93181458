"""Who has to go: never in vain, never more than needed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import Resident
from ekiben.fleet.policy.victims import victims
from ekiben_adaptive.policy import Adaptive
from ekiben_classic.policy import Classic

spared = Adaptive().worth
recency = Classic().worth

SMALL = Resident("small", size_bytes=1_000, cold_cost_s=2.0, rate=1.0, last_use_s=10.0)
"""Saves 2 ms per byte."""
LARGE = Resident("large", size_bytes=10_000, cold_cost_s=10.0, rate=1.0, last_use_s=30.0)
"""Saves 1 ms per byte."""
POPULAR = Resident("popular", size_bytes=10_000, cold_cost_s=10.0, rate=5.0, last_use_s=20.0)
"""Saves 5 ms per byte."""
ALL = (POPULAR, SMALL, LARGE)


def names(plan: tuple[Resident, ...] | None) -> list[str] | None:
    return None if plan is None else [resident.name for resident in plan]


def test_the_worth_is_the_waiting_that_a_byte_spares() -> None:
    assert [spared(r) for r in (SMALL, LARGE, POPULAR)] == [0.002, 0.001, 0.005]


def test_the_least_worthy_goes_first() -> None:
    assert names(victims(ALL, needed_bytes=1, worth=spared)) == ["large"]
    assert names(victims(ALL, needed_bytes=10_001, worth=spared)) == ["large", "small"]
    assert names(victims(ALL, needed_bytes=21_000, worth=spared)) == ["large", "small", "popular"]


def test_the_longest_unused_goes_first() -> None:
    assert names(victims(ALL, needed_bytes=1, worth=recency)) == ["small"]
    assert names(victims(ALL, needed_bytes=11_000, worth=recency)) == ["small", "popular"]


def test_who_is_not_needed_after_all_is_spared() -> None:
    """Least recently used is the small one, but it does not help: the next one is enough alone."""
    assert names(victims(ALL, needed_bytes=9_000, worth=recency)) == ["popular"]


def test_nothing_needed_harms_nobody() -> None:
    assert victims(ALL, needed_bytes=0, worth=spared) == ()
    assert victims(ALL, needed_bytes=-5, worth=spared) == ()


def test_what_cannot_be_freed_is_no_plan() -> None:
    assert victims(ALL, needed_bytes=21_001, worth=spared) is None
    assert victims((), needed_bytes=1, worth=spared) is None


def test_equals_go_by_name_whatever_the_order() -> None:
    twins = (replace(SMALL, name="b"), replace(SMALL, name="a"))
    for order in (twins, twins[::-1]):
        assert names(victims(order, needed_bytes=1, worth=spared)) == ["a"]


residents_of_any_kind = st.lists(
    st.builds(
        Resident,
        name=st.uuids().map(str),
        size_bytes=st.integers(0, 100),
        cold_cost_s=st.floats(0, 100),
        rate=st.floats(0, 100),
        last_use_s=st.floats(0, 100),
    ),
    max_size=12,
    unique_by=lambda resident: resident.name,
)


@given(residents_of_any_kind, st.integers(1, 400), st.sampled_from([recency, spared]))
def test_a_plan_frees_enough_with_nobody_to_spare(residents, needed_bytes, worth) -> None:  # type: ignore[no-untyped-def]
    plan = victims(residents, needed_bytes=needed_bytes, worth=worth)
    if plan is None:
        assert sum(r.size_bytes for r in residents) < needed_bytes
        return
    assert set(plan) <= set(residents)
    freed_bytes = sum(r.size_bytes for r in plan)
    assert freed_bytes >= needed_bytes
    assert all(freed_bytes - r.size_bytes < needed_bytes for r in plan)
    assert [worth(r) for r in plan] == sorted(worth(r) for r in plan)
