"""The rules that ours are measured against do what their authors say."""

from __future__ import annotations

import math

import pytest

from ekiben.contract import Resident
from ekiben.errors import ConfigError
from ekiben.fleet.policy.history import History
from ekiben.fleet.simulation.capped import run_capped
from ekiben.fleet.simulation.contenders import contender, evictions, keep_alives
from ekiben.fleet.simulation.references import (
    HybridHistogram,
    clairvoyant_keep_alive,
    clairvoyant_worth,
    shortest_keep_alive,
)
from ekiben.fleet.simulation.scenario import Model, Scenario
from ekiben.fleet.simulation.unbounded import Stay, run_unbounded
from ekiben.plugins.discovery import discover

EVICTIONS = evictions(discover())
KEEP_ALIVES = keep_alives(discover())


def resident(name: str) -> Resident:
    return Resident(name, size_bytes=10, cold_cost_s=5.0, rate=1.0, last_use_s=0.0)


def test_ollama_takes_the_first_of_the_alphabet() -> None:
    model = Model("", 1, 1.0, [])
    assert shortest_keep_alive(resident("a"), model, 0.0) < shortest_keep_alive(resident("b"), model, 0.0)


def test_the_clairvoyant_knows_when_a_model_is_used_again() -> None:
    model = Model("a", 10, 5.0, [100.0])
    assert clairvoyant_worth(resident("a"), model, 50.0) == 5.0 / 10 / 50
    assert clairvoyant_worth(resident("a"), model, 100.0) == 0.0, "never again"


def test_the_clairvoyant_stays_exactly_when_it_pays() -> None:
    rule = clairvoyant_keep_alive(price_bytes=100.0)  # breaks even at 50 s
    assert rule(Model("a", 10, 5.0, [150.0]), History(), 100.0) == Stay(50.0)
    assert rule(Model("a", 10, 5.0, [150.1]), History(), 100.0) == Stay(0.0)


def stays(gaps_s: list[float]) -> Stay:
    """What the histogram says after these idle times, requests taking no time."""
    arrivals = [0.0]
    for gap_s in gaps_s:
        arrivals.append(arrivals[-1] + gap_s)
    rule, model = HybridHistogram(), Model("a", 10, 5.0, arrivals)
    return [rule(model, History(), at) for at in arrivals][-1]


def test_the_histogram_stays_long_while_it_knows_little() -> None:
    assert stays([]) == Stay(until_s=4 * 3600.0)


def test_the_histogram_leaves_and_returns_around_its_percentiles() -> None:
    """All idle times in minute 10: away until 0.9 * 10 minutes, gone after 1.1 * 11."""
    said = stays([630.0] * 20)
    assert said.away_until_s == pytest.approx(0.9 * 600)
    assert said.until_s == pytest.approx(1.1 * 660)


def test_the_histogram_does_not_leave_when_many_come_back_at_once() -> None:
    said = stays([30.0] * 10 + [630.0] * 10)
    assert said.away_until_s == 0.0
    assert said.until_s == pytest.approx(1.1 * 660)


def test_the_histogram_forecasts_what_is_beyond_its_range() -> None:
    said = stays([20_000.0] * 3)
    assert said.away_until_s == pytest.approx(17_000.0)
    assert said.until_s == pytest.approx(23_000.0)


def test_every_policy_runs_under_its_name_and_knowing_the_future_helps() -> None:
    models = [
        Model(f"m{n}", 10, 5.0, [n * 100.0 + turn * (900.0 + 37.0 * n) for turn in range(40)])
        for n in range(6)
    ]
    scenario = Scenario(tuple(models), end_s=50_000.0)
    waits = {
        name: run_capped(scenario, contender(name, EVICTIONS)(), memory_bytes=30).mean_wait_s
        for name in EVICTIONS
    }
    assert min(waits, key=waits.__getitem__) == "clairvoyant"
    for name in KEEP_ALIVES:
        outcome = run_unbounded(scenario, contender(name, KEEP_ALIVES)())
        assert outcome.requests == 240 and math.isfinite(outcome.byte_seconds)


def test_a_number_changes_the_rule() -> None:
    model = Model("a", 10, 5.0, [])
    assert contender("ttl", KEEP_ALIVES)()(model, History(), 0.0) == Stay(300.0)
    assert contender("ttl:60", KEEP_ALIVES)()(model, History(), 0.0) == Stay(60.0)


@pytest.mark.parametrize("text", ["nope", "adaptive:5", "ttl:", "ttl:0", "ttl:inf"])
def test_a_wrong_name_or_number_is_told(text: str) -> None:
    with pytest.raises(ConfigError):
        contender(text, KEEP_ALIVES)
