"""The simulator on traffic so small that its result is computed by hand."""

from __future__ import annotations

import pytest

from ekiben.contract import Resident
from ekiben.fleet.policy.history import History
from ekiben.fleet.simulation.capped import run_capped
from ekiben.fleet.simulation.outcome import Outcome
from ekiben.fleet.simulation.references import recency
from ekiben.fleet.simulation.scenario import Model, Scenario
from ekiben.fleet.simulation.unbounded import Stay, run_unbounded


def scenario(*models: Model, end_s: float = 1000.0) -> Scenario:
    return Scenario(models, end_s=end_s, service_s=2.0)


def stay(until_s: float, away_until_s: float = 0.0):  # type: ignore[no-untyped-def]
    return lambda model, history, idle_s: Stay(until_s, away_until_s)


# Without a cap


def test_a_fixed_keep_alive_by_hand() -> None:
    """Loads at 0 and is ready at 10; who comes at 4 waits for the rest; both are done at 12. At 50 it is
    warm until 52, and stays until 152. At 300 it is cold again, done at 312 and gone at 412."""
    model = Model("a", 100, 10.0, [0.0, 4.0, 50.0, 300.0])
    outcome = run_unbounded(scenario(model), stay(100.0))
    assert outcome.requests == 4
    assert outcome.loads == 2
    assert sorted(outcome.waits_s) == [6.0, 10.0, 10.0]
    assert outcome.byte_seconds == 100 * (152 + 112)
    assert outcome.cold_share == 0.75
    assert outcome.mean_wait_s == 6.5


def test_the_books_are_closed_at_the_end() -> None:
    outcome = run_unbounded(scenario(Model("a", 1, 10.0, [0.0]), end_s=50.0), stay(100.0))
    assert outcome.byte_seconds == 50.0


@pytest.mark.parametrize(
    ("second_s", "waits_s", "held_s"),
    [
        (40.0, [10.0, 10.0], 12 + 12 + 30),  # before it returns: cold, then away and back once more
        (65.0, [10.0, 7.0], 12 + 12 + 30),  # it began to load at 62: three of ten seconds are done
        (80.0, [10.0], 12 + 20 + 30),  # it has returned
        (95.0, [10.0, 10.0], 12 + 30 + 12 + 30),  # it has returned and left again
    ],
)
def test_a_model_that_leaves_and_returns_by_hand(
    second_s: float, waits_s: list[float], held_s: float
) -> None:
    """Idle from 12 on: away at once, back at 62, gone for good at 92. The same after the second."""
    model = Model("a", 1, 10.0, [0.0, second_s])
    outcome = run_unbounded(scenario(model), stay(80.0, 50.0))
    assert outcome.waits_s == waits_s
    assert outcome.byte_seconds == held_s


def test_the_rule_sees_the_past_and_nothing_else() -> None:
    seen: list[tuple[History, float]] = []

    def rule(model: Model, history: History, idle_s: float) -> Stay:
        seen.append((history, idle_s))
        return Stay(1000.0)

    run_unbounded(scenario(Model("a", 1, 0.0, [0.0, 102.0, 154.0])), rule)
    assert [idle_s for _, idle_s in seen] == [2.0, 104.0, 156.0]
    assert [history.gaps_s for history, _ in seen] == [(), (100.0,), (100.0, 50.0)]
    assert [history.used_at_s for history, _ in seen] == [0.0, 102.0, 154.0]


# Under a cap


def test_eviction_by_hand() -> None:
    """Room for two. At 200 `c` comes, and the least recently used is `a`; at 300 `a` finds `b` idle
    for longest. So `b` is the only one that never loads twice."""
    a = Model("a", 10, 5.0, [0.0, 300.0])
    b = Model("b", 10, 5.0, [100.0])
    c = Model("c", 10, 5.0, [200.0])
    outcome = run_capped(scenario(a, b, c), recency, memory_bytes=20)
    assert outcome.loads == 4
    assert outcome.waits_s == [5.0] * 4
    assert outcome.byte_seconds == 10 * (200 + 200 + 800 + 700)


def test_who_finds_all_busy_waits_until_one_is_idle() -> None:
    """`a` loads until 5 and serves until 7. `b` came at 1 and at 3: it loads from 7 to 12."""
    a = Model("a", 10, 5.0, [0.0])
    b = Model("b", 10, 5.0, [1.0, 3.0])
    outcome = run_capped(scenario(a, b), recency, memory_bytes=10)
    assert outcome.waits_s == [5.0, 11.0, 9.0]
    assert outcome.loads == 2


def test_a_busy_model_that_is_used_on_is_waited_for() -> None:
    """`a` would be idle at 7, but is used at 6 and so until 8."""
    a = Model("a", 10, 5.0, [0.0, 6.0])
    b = Model("b", 10, 5.0, [1.0])
    assert run_capped(scenario(a, b), recency, memory_bytes=10).waits_s == [5.0, 12.0]


def test_a_request_during_the_load_waits_for_the_rest() -> None:
    model = Model("a", 10, 5.0, [0.0, 2.0, 5.0])
    assert run_capped(scenario(model), recency, memory_bytes=10).waits_s == [5.0, 3.0]


def test_what_can_never_fit_is_refused_and_harms_nobody() -> None:
    small, large = Model("small", 10, 5.0, [0.0, 100.0]), Model("large", 11, 5.0, [50.0])
    outcome = run_capped(scenario(small, large), recency, memory_bytes=10)
    assert (outcome.refused, outcome.loads, outcome.waits_s) == (1, 1, [5.0])


def test_the_worth_is_asked_with_the_rate_and_the_model() -> None:
    asked: list[tuple[str, float, float, float]] = []

    def worth(resident: Resident, model: Model, now: float) -> float:
        asked.append((resident.name, resident.rate, model.next_arrival_s(now), now))
        return 0.0

    a, b = Model("a", 10, 5.0, [0.0, 900.0]), Model("b", 10, 5.0, [300.0])
    run_capped(scenario(a, b), worth, memory_bytes=10)
    assert asked == [("a", 0.5, 900.0, 300.0), ("b", 0.25, float("inf"), 900.0)]


# Outcomes


def test_quantiles_count_those_who_did_not_wait() -> None:
    outcome = Outcome(requests=10, waits_s=[4.0, 2.0])
    assert [outcome.wait_quantile_s(share) for share in (0.5, 0.8, 0.9, 0.99, 1.0)] == [0, 0, 2, 4, 4]


def test_nothing_came_of_nothing() -> None:
    outcome = run_unbounded(scenario(Model("a", 1, 1.0, [])), stay(1.0))
    assert (outcome.cold_share, outcome.mean_wait_s, outcome.wait_quantile_s(0.99)) == (0, 0, 0)
