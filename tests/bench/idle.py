"""What a platform with nothing loaded costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.running import Platform

SETTLE_S = 3.0
WATCH_S = 20.0


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    platform = Platform(folder / "home", weights / "weights").start()
    try:
        assert platform.process is not None
        process = psutil.Process(platform.process.pid)
        time.sleep(SETTLE_S)
        before = process.cpu_times()
        time.sleep(WATCH_S)
        after = process.cpu_times()
        used_s = (after.user + after.system) - (before.user + before.system)
        memory = process.memory_full_info()
        yield {
            "row": "idle platform",
            "resident_mb": round(memory.rss / 2**20, 1),
            "unique_mb": round(memory.uss / 2**20, 1),
            "cpu_share": round(used_s / WATCH_S, 4),
            "watched_s": WATCH_S,
        }
    finally:
        platform.stop()
