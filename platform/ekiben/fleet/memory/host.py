"""The machine's own memory, as this process may use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ekiben.fleet.memory.cgroups import limiting_groups

_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Host:
    limit_bytes: int
    """What could be used if nothing else ran: the machine's memory, or less if a control group says so."""
    available_bytes: int
    """What could be taken now without swapping; the cache of files counts as available."""


def read_host(root: Path = Path("/")) -> Host:
    """`root`: where `proc` and `sys` lie."""
    total, available = _machine(root)
    for group in limiting_groups(root):
        total = min(total, group.limit_bytes)
        available = min(available, max(0, group.limit_bytes - group.used_bytes))
    return Host(total, available)


def _machine(root: Path) -> tuple[int, int]:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    sizes = {name: int(rest.split()[0]) * _KIB for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"] + sizes.get("Cached", 0))


def held_bytes(pids: Iterable[int], root: Path = Path("/")) -> int:
    """What processes and their descendants hold that only their end would make available.

    Files that are mapped are not in it: the kernel drops them when memory is short. Takes milliseconds
    for each gigabyte.
    """
    processes = root / "proc"
    return sum(_anonymous_bytes(processes / str(pid)) for pid in _families(processes, pids))


def _families(processes: Path, pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        for children in (processes / str(pid) / "task").glob("*/children"):
            waiting += [int(child) for child in _text(children).split()]
    return found


def _anonymous_bytes(process: Path) -> int:
    """Shared pages count in proportion. 0 when the process is gone."""
    sizes = (line.split() for line in _text(process / "smaps_rollup").splitlines())
    counted = ("Pss_Anon:", "Pss_Shmem:")
    return sum(int(words[1]) * _KIB for words in sizes if words and words[0] in counted)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
