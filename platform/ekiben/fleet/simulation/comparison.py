"""Several policies over the same draws of a trace, each measured against a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, TypeAlias

from ekiben.fleet.simulation.capped import run_capped
from ekiben.fleet.simulation.contenders import contender, evictions, keep_alives
from ekiben.fleet.simulation.outcome import Outcome
from ekiben.fleet.simulation.scenario import Scenario
from ekiben.fleet.simulation.unbounded import run_unbounded
from ekiben.plugins.discovery import Plugins

CAPPED_POLICIES: Final = ("lru", "adaptive", "ollama", "clairvoyant")
"""Compared where no others are asked for; all are measured against the first."""
UNBOUNDED_POLICIES: Final = (
    "ttl:300",
    "ttl:60",
    "ttl:900",
    "ttl:3600",
    "adaptive",
    "hybrid-histogram",
    "clairvoyant",
)
"""The same, without a cap."""

Quantity: TypeAlias = Callable[[Outcome], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One policy over all draws, at one amount of memory."""

    policy: str
    memory_bytes: int | None
    outcomes: Sequence[Outcome]
    baseline: Sequence[Outcome]

    def mean(self, quantity: Quantity) -> float:
        return fmean(map(quantity, self.outcomes))

    def ratios(self, quantity: Quantity) -> list[float]:
        """To the baseline, draw by draw; draws in which the baseline has nothing of it are left out."""
        pairs = zip(self.outcomes, self.baseline, strict=True)
        return [quantity(mine) / quantity(its) for mine, its in pairs if quantity(its) > 0]

    def ratio(self, quantity: Quantity) -> float | None:
        """The geometric mean of the ratios, so that no draw counts for more than another."""
        ratios = self.ratios(quantity)
        if not ratios:
            return None
        return 0.0 if min(ratios) <= 0 else math.exp(fmean(map(math.log, ratios)))

    def as_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "memory_bytes": self.memory_bytes,
            **{name: self.mean(quantity) for name, quantity in QUANTITIES.items()},
            "wait_ratio": self.ratio(QUANTITIES["mean_wait_s"]),
            "wait_ratios": self.ratios(QUANTITIES["mean_wait_s"]),
            "memory_ratio": self.ratio(QUANTITIES["memory_gb_hours"]),
            "memory_ratios": self.ratios(QUANTITIES["memory_gb_hours"]),
        }


QUANTITIES: Final[dict[str, Quantity]] = {
    "requests": lambda outcome: outcome.requests,
    "refused": lambda outcome: outcome.refused,
    "loads": lambda outcome: outcome.loads,
    "cold_share": lambda outcome: outcome.cold_share,
    "mean_wait_s": lambda outcome: outcome.mean_wait_s,
    "p99_wait_s": lambda outcome: outcome.wait_quantile_s(0.99),
    "memory_gb_hours": lambda outcome: outcome.memory_gb_hours,
}


def compare_capped(
    scenarios: Sequence[Scenario], policies: Sequence[str], plugins: Plugins, *, memory_bytes: int
) -> Iterator[Row]:
    """Eviction at equal memory. The first policy is the baseline. Raises ConfigError before it starts."""
    known = evictions(plugins)
    makers = [contender(policy, known) for policy in policies]
    baseline: list[Outcome] = []
    for policy, make in zip(policies, makers, strict=True):
        outcomes = [run_capped(scenario, make(), memory_bytes=memory_bytes) for scenario in scenarios]
        baseline = baseline or outcomes
        yield Row(policy, memory_bytes, outcomes, baseline)


def compare_unbounded(
    scenarios: Sequence[Scenario], policies: Sequence[str], plugins: Plugins
) -> Iterator[Row]:
    """Keep-alive without a cap. The first policy is the baseline. Raises ConfigError before it starts."""
    known = keep_alives(plugins)
    makers = [contender(policy, known) for policy in policies]
    baseline: list[Outcome] = []
    for policy, make in zip(policies, makers, strict=True):
        outcomes = [run_unbounded(scenario, make()) for scenario in scenarios]
        baseline = baseline or outcomes
        yield Row(policy, None, outcomes, baseline)
