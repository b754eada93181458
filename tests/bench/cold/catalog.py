"""What a large catalog costs while nothing runs and nobody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import psutil

from tests.bench.cold import ekiben
from tests.bench.cold.measure import Bench, Row, say, verdict
from tests.bench.cold.pair import add
from tests.bench.home import MODEL, weights_of

MODELS: Final = 200
SETTLE_S: Final = 3.0
WATCH_S: Final = 30.0


def run(bench: Bench) -> Iterator[Row]:
    weights = weights_of(MODEL, bench.weights)
    with ekiben.platform(bench, "catalog") as running:
        for index in range(MODELS):
            add(running, f"model-{index}", weights, folder=bench.folder / "catalog")
        say(f"  {len(running.get('/api/models')['models'])} models; watching for {WATCH_S:g} s")
        assert running.process is not None
        process = psutil.Process(running.process.pid)
        time.sleep(SETTLE_S)
        before = _cpu_s(process)
        time.sleep(WATCH_S)
        share = (_cpu_s(process) - before) / WATCH_S
        resident = process.memory_info().rss
    yield verdict(
        f"share of a core with {MODELS} models and nothing running",
        round(share, 5),
        at_most=0.01,
        resident_mb=round(resident / 10**6),
        watched_s=WATCH_S,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
