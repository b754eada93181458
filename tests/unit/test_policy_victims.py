"""Who has to go: never in vain, never more than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import Resident
from ekiben.fleet.policy.victims import victims
from ekiben_classic.policy import Classic

recency = Classic().worth


def spared(resident: Resident) -> float:
    """The waiting that a byte of it spares."""
    return resident.rate * resident.cold_cost_s / max(resident.size_bytes, 1)


SMALL = Resident("small", size_bytes=1_000, cold_cost_s=2.0, rate=1.0, last_use_s=10.0)
"""Saves 2 ms per byte."""
LARGE = Resident("large", size_bytes=10_000, cold_cost_s=10.0, rate=1.0, last_use_s=30.0)
"""Saves 1 ms per byte."""
POPULAR = Resident("popular", size_bytes=10_000, cold_cost_s=10.0, rate=5.0, last_use_s=20.0)
"""Saves 5 ms per byte."""
ALL = (POPULAR, SMALL, LARGE)


def planned(
    residents: Iterable[Resident], needed_bytes: int, worth: Callable[[Resident], float]
) -> tuple[Resident, ...] | None:
    return victims(
        residents,
        {"cpu": needed_bytes},
        memory=lambda r: {"cpu": r.size_bytes},
        worth=lambda r: (worth(r), r.name),
    )


def names(plan: tuple[Resident, ...] | None) -> list[str] | None:
    return None if plan is None else [resident.name for resident in plan]


def test_the_least_worthy_goes_first() -> None:
    assert names(planned(ALL, 1, spared)) == ["large"]
    assert names(planned(ALL, 10_001, spared)) == ["large", "small"]
    assert names(planned(ALL, 21_000, spared)) == ["large", "small", "popular"]


def test_the_longest_unused_goes_first() -> None:
    assert names(planned(ALL, 1, recency)) == ["small"]
    assert names(planned(ALL, 11_000, recency)) == ["small", "popular"]


def test_who_is_not_needed_after_all_is_spared() -> None:
    """Least recently used is the small one, but it does not help: the next one is enough alone."""
    assert names(planned(ALL, 9_000, recency)) == ["popular"]


def test_nothing_needed_harms_nobody() -> None:
    assert planned(ALL, 0, spared) == ()
    assert planned(ALL, -5, spared) == ()


def test_what_cannot_be_freed_is_no_plan() -> None:
    assert planned(ALL, 21_001, spared) is None
    assert planned((), 1, spared) is None


def test_equals_go_by_name_whatever_the_order() -> None:
    twins = (replace(SMALL, name="b"), replace(SMALL, name="a"))
    for order in (twins, twins[::-1]):
        assert names(planned(order, 1, spared)) == ["a"]


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
    plan = planned(residents, needed_bytes, worth)
    if plan is None:
        assert sum(r.size_bytes for r in residents) < needed_bytes
        return
    assert set(plan) <= set(residents)
    freed_bytes = sum(r.size_bytes for r in plan)
    assert freed_bytes >= needed_bytes
    assert all(freed_bytes - r.size_bytes < needed_bytes for r in plan)
    assert [worth(r) for r in plan] == sorted(worth(r) for r in plan)


def test_memory_is_freed_on_every_device_where_it_lacks() -> None:
    held = {"a": {"cpu": 5}, "b": {"cuda:0": 5}, "c": {"cpu": 5, "cuda:0": 5}, "d": {"cuda:1": 9}}
    chosen = victims(held, {"cpu": 5, "cuda:0": 5}, memory=held.__getitem__, worth=str)
    assert chosen == ("a", "b")
    assert victims(held, {"cpu": 6, "cuda:0": 5}, memory=held.__getitem__, worth=str) == ("a", "c")
    assert victims(held, {"cuda:1": 10}, memory=held.__getitem__, worth=str) is None
