"""What a model's unloading gives back, as a share of what its loading took.

In proportional shares (PSS) of all the platform's processes, so that pages which forks share with their
zygote are counted once. The zygote is warm before and after.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Final

import psutil

from tests.bench.cold import ekiben
from tests.bench.cold.first_answers import CONTESTS
from tests.bench.cold.measure import Bench, Row, say, verdict
from tests.bench.cold.questions import Ask, Chat
from tests.bench.home import MODEL, weights_of
from tests.running import Platform

ASKED: Final[dict[str, Ask]] = {MODEL: Chat(MODEL)} | {each.model: each.ask for each in CONTESTS}


def run(bench: Bench) -> Iterator[Row]:
    with ekiben.platform(bench, "memory") as running:
        for model, ask in ASKED.items():
            weights_of(model, bench.weights)
            yield _cycle(running, model, ask, rounds=bench.rounds)


def _cycle(running: Platform, model: str, ask: Ask, *, rounds: int) -> Row:
    ask(running.url)  # its zygote stays
    running.post(f"/api/models/{model}/stop")
    taken: list[int] = []
    kept: list[float] = []
    for _ in range(rounds):
        before = _bytes(running)
        ask(running.url)
        loaded = _bytes(running)
        running.post(f"/api/models/{model}/stop")
        taken.append(loaded - before)
        kept.append((_bytes(running) - before) / (loaded - before))
    say(f"  {model}: kept {statistics.median(kept):.1%}")
    return verdict(
        f"{model}: memory kept after unloading",
        round(statistics.median(kept), 4),
        at_most=0.02,
        taken_mb=round(statistics.median(taken) / 10**6),
        runs=rounds,
    )


def _bytes(running: Platform) -> int:
    total = 0
    for process in running.processes():
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total
