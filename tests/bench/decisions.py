"""What decisions take in the supervisor's loop: 200 models, each with a full memory of its past."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

from ekiben.contract import NOTABLE_GAP_S, Idle, Policy, Resident
from ekiben.fleet.decisions.ledger import HOST, Memory
from ekiben.fleet.policy.choice import choose_policy
from ekiben.fleet.policy.history import GAPS_KEPT
from ekiben.fleet.policy.victims import victims
from ekiben.plugins.discovery import discover

MODELS: Final = 200
ROUNDS: Final = 50


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    plugins = discover()
    for policy_id in sorted(plugins.policies()):
        policy = choose_policy(plugins, policy_id)
        residents, idles = _models(random.Random(1))
        lacking = {HOST: sum(resident.size_bytes for resident in residents) // 2}
        yield {
            "row": f"{policy_id}, {MODELS} models",
            "victims_ms": _median_ms(_choosing(policy, residents, lacking)),
            "keep_alive_ms": _median_ms(_asking(policy, idles)),
        }


def _models(rng: random.Random) -> tuple[list[Resident], list[Idle]]:
    residents, idles = [], []
    for number in range(MODELS):
        size_bytes, cost_s = rng.randrange(10**8, 3 * 10**10), rng.uniform(0.5, 20)
        gaps_s = tuple(NOTABLE_GAP_S + rng.expovariate(1 / 600) for _ in range(GAPS_KEPT))
        idle_s = rng.uniform(0, 600)
        rate = rng.random()
        residents.append(Resident(f"m{number}", size_bytes, cost_s, rate, -idle_s, idle_s, gaps_s))
        idles.append(Idle(f"m{number}", size_bytes, cost_s, gaps_s))
    return residents, idles


def _choosing(policy: Policy, residents: list[Resident], lacking: Memory) -> Callable[[], object]:
    """Room for half of what is held."""
    return lambda: victims(
        residents,
        lacking,
        memory=lambda resident: {HOST: resident.size_bytes},
        worth=lambda resident: (policy.worth(resident), resident.name),
    )


def _asking(policy: Policy, idles: list[Idle]) -> Callable[[], object]:
    """One question, each time about the next model."""
    turns = iter(idles * ROUNDS)
    return lambda: policy.keep_alive_s(next(turns))


def _median_ms(decide: Callable[[], object]) -> float:
    taken_s = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        decide()
        taken_s.append(time.perf_counter() - began_s)
    return round(median(taken_s) * 1000, 4)
