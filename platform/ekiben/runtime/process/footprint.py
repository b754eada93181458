"""How much memory processes hold.

Pages that several processes share count in each of them by their part, so that a replica and the zygote
that it was forked from do not count them twice. Reads the kernel's sums of whole processes, which takes
about a millisecond for each gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil


def host_bytes(pid: int) -> int | None:
    """Of the process and of all that it started; None when it is gone. Blocks for milliseconds."""
    own = _proportional_bytes(pid)
    if own is None:
        return None
    return own + sum(_proportional_bytes(child) or 0 for child in descendants(pid))


def descendants(pid: int) -> Iterator[int]:
    """Children and theirs. Reads a small file for each thread, not the whole process table."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def children(pid: int) -> list[int]:
    """Empty when the process is gone."""
    return [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in _numbers(file)]


def _numbers(file: Path) -> Iterable[int]:
    try:
        return map(int, file.read_text().split())
    except OSError:  # the thread has ended
        return ()


def _proportional_bytes(pid: int) -> int | None:
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as sums:
            for line in sums:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (PermissionError, FileNotFoundError):
        return _resident_bytes(pid)  # a kernel without the sums, or a process that hides them
    except ProcessLookupError:
        return None
    return None  # it has ended, and nobody waited for it yet


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
