"""The machine's own memory, as this process may use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ekiben.fleet.memory.cgroups import limiting_groups
from ekiben.runtime.process.footprint import descendants

_KIB: Final = 1024
_COUNTED: Final = ("Pss_Anon:", "Pss_Shmem:")


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


def held_bytes(pids: Iterable[int]) -> int:
    """What processes and their descendants hold that only their end would make available.

    Files that are mapped are not in it: the kernel drops them when memory is short. Takes milliseconds
    for each gigabyte.
    """
    roots = set(pids)
    return sum(map(_anonymous_bytes, roots.union(*map(descendants, roots))))


def _anonymous_bytes(pid: int) -> int:
    """Shared pages count in proportion. 0 when the process is gone."""
    try:
        sums = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    lines = (line.split() for line in sums.splitlines())
    return sum(int(words[1]) * _KIB for words in lines if words and words[0] in _COUNTED)
