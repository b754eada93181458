"""What a stopped replica gives back: SIGSTOP, its pages offered for reclaim, SIGCONT, and the first answer.

Beside it the first answer of a forked cold start. Memory is of the process alone, in proportional shares.
"""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.cold import ekiben
from tests.bench.cold.measure import Bench, seconds_of
from tests.bench.cold.memory import ASKED
from tests.bench.cold.questions import Ask
from tests.bench.home import weights_of
from tests.running import Platform

ROUNDS: Final = 3
_PROCESS_MADVISE: Final = 440
_PAGEOUT: Final = 21
_KERNEL_BEGIN: Final = 1 << 63


class _Range(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("length", ctypes.c_size_t))


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    bench = Bench(folder=folder, weights=weights, cache=folder / "cache")
    with ekiben.platform(bench, "stopped") as running:
        for model, ask in list(ASKED.items())[:3]:
            weights_of(model, weights)
            yield {"row": model, **_measure(running, model, ask), "runs": ROUNDS}


def _measure(running: Platform, model: str, ask: Ask) -> dict[str, float]:
    ask(running.url)  # its zygote stays
    shots: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        running.post(f"/api/models/{model}/stop")
        shot = {"cold_s": seconds_of(lambda: ask(running.url)), "hot_s": seconds_of(lambda: ask(running.url))}
        pid = running.replica_pid(model)
        shot["held_mb"] = _held_mb(pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            _page_out(pid)
            shot["stopped_mb"] = _held_mb(pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        shots.append(shot | {"woken_s": seconds_of(lambda: ask(running.url))})
    return {key: round(statistics.median(shot[key] for shot in shots), 3) for key in shots[0]}


def _held_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 10**6 for line in lines if line.startswith("Pss:"))


def _page_out(pid: int) -> None:
    """Every range that the kernel takes advice about; it refuses a few of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    pid_fd = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(text, 16) for text in line.split()[0].split("-"))
            if begin < _KERNEL_BEGIN:
                pages = _Range(begin, end - begin)
                libc.syscall(
                    _PROCESS_MADVISE,
                    pid_fd,
                    ctypes.byref(pages),
                    ctypes.c_ulong(1),
                    _PAGEOUT,
                    ctypes.c_uint(0),
                )
    finally:
        os.close(pid_fd)
