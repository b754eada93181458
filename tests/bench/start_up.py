"""How long `ekiben up` takes to be ready, from the start of its process to the first 200 of /readyz."""

from __future__ import annotations

import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.running import Platform

RUNS = 7


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    times = []
    for number in range(RUNS):
        platform = Platform(folder / f"home-{number % 2}", weights / "weights")
        started = time.perf_counter()
        platform.start()
        with urllib.request.urlopen(f"{platform.url}/readyz", timeout=10) as response:
            assert response.status == 200
        times.append(time.perf_counter() - started)
        platform.stop()
    yield {
        "row": "ekiben up to ready",
        "median_s": round(statistics.median(times), 3),
        "worst_s": round(max(times), 3),
        "runs": RUNS,
    }
