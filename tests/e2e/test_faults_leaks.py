"""Models that come and go for a long time: row D13. Nothing grows but the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.mayflies import Mayfly
from tests.running import Platform, wait_until

WARM_UP = 3
MIB = 2**20
GROWTH_BYTES = 12 * MIB
"""For what grows once: caches, pools, the arenas of the allocator."""


@dataclass(frozen=True)
class Holdings:
    """What a platform holds while no model is loaded."""

    files: int
    threads: int
    children: int
    zombies: int
    shared_memory: frozenset[str]
    folders: int
    resident_bytes: int

    @classmethod
    def of(cls, platform: Platform) -> Holdings:
        assert platform.process is not None
        process = psutil.Process(platform.process.pid)
        children = process.children(recursive=True)
        return cls(
            files=process.num_fds(),
            threads=process.num_threads(),
            children=len(children),
            zombies=sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
            shared_memory=frozenset(path.name for path in Path("/dev/shm").iterdir()),
            folders=len(list((platform.home / "run" / "replicas").iterdir())),
            resident_bytes=process.memory_info().rss,
        )


def cycle(fly: Mayfly, times: int) -> None:
    """Load it, ask it, and let it go."""
    for _ in range(times):
        assert fly.ask() == "hello"
        fly.wait_for("cold")


def settled(platform: Platform, before: Holdings) -> Holdings:
    """What it holds once it holds no more files, threads and children than before."""

    def look() -> Holdings | None:
        now = Holdings.of(platform)
        fits = now.files <= before.files + 2 and now.threads <= before.threads + 2
        return now if fits and now.children <= before.children else None

    return wait_until(look, f"the platform to hold no more than {before}", timeout_s=20)


@pytest.mark.parametrize(
    "cycles", [20, pytest.param(200, marks=pytest.mark.slow)], ids=["twenty", "two hundred"]
)
def test_d13_cycles_of_load_and_unload_leave_nothing(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str], tmp_path: Path, cycles: int
) -> None:
    platform = make_platform("--keep-alive", "0", env=with_mayflies).start()
    fly = Mayfly(platform, "fly", tmp_path)
    cycle(fly, WARM_UP)
    before = Holdings.of(platform)
    cycle(fly, cycles)
    after = settled(platform, before)
    assert len(fly.loads) == WARM_UP + cycles and fly.living == []
    assert after.zombies == 0
    assert after.folders <= before.folders
    assert after.shared_memory <= before.shared_memory
    assert after.resident_bytes < before.resident_bytes + GROWTH_BYTES


@pytest.mark.slow
def test_d13_failed_loads_leave_nothing(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str], tmp_path: Path
) -> None:
    platform = make_platform("--keep-alive", "0", env=with_mayflies).start()
    good = Mayfly(platform, "good", tmp_path)
    cycle(good, WARM_UP)
    before = Holdings.of(platform)
    for number, load in enumerate(["!fail", "!exit", "!segv", "!kill"] * 2):
        bad = Mayfly(platform, f"bad-{number}", tmp_path, load=load)
        platform.post(f"/api/models/{bad.name}/load")
        assert bad.state == "failed" and bad.living == []
    after = settled(platform, before)
    assert after.zombies == 0 and after.folders <= before.folders
