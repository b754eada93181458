"""What control groups leave of the machine's memory. Both versions of them, and nested ones.

A process may use no more than the tightest group on the way from its own up to the root allows. Groups
above the mount are not seen from here; a container's own group is the root of its mount.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_UNLIMITED: Final = 2**62
"""Version 1 writes a number near this when there is no limit."""
_MOUNT: Final = re.compile(
    r"^\d+ \d+ \S+ (?P<root>\S+) (?P<point>\S+) .* - (?P<kind>cgroup2?) \S+ (?P<options>\S+)$"
)


@dataclass(frozen=True, slots=True)
class Group:
    """A control group that limits memory."""

    limit_bytes: int
    used_bytes: int
    """Without what the kernel drops when memory is short: the cache of files, and slabs."""


@dataclass(frozen=True, slots=True)
class _Version:
    """The words of a version of control groups."""

    limits: tuple[str, ...]
    usage: str
    droppable: tuple[str, ...]


_VERSION_1: Final = _Version(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_VERSION_2: Final = _Version(
    ("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file", "slab_reclaimable")
)


def limiting_groups(root: Path = Path("/")) -> list[Group]:
    """The groups of this process that have a limit. `root`: where `proc` and `sys` lie."""
    groups: list[Group] = []
    for version, folder, top in _memory_folders(root):
        while True:
            group = _read_group(folder, version)
            if group is not None:
                groups.append(group)
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent
    return groups


def _memory_folders(root: Path) -> list[tuple[_Version, Path, Path]]:
    """For each mounted hierarchy with memory in it: this process's own folder, and the topmost."""
    places = _places(_text(root / "proc/self/cgroup"))
    found = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount = _MOUNT.match(line)
        if mount is None:
            continue
        if mount["kind"] == "cgroup2":
            version, place = _VERSION_2, places.get("")
        elif "memory" in mount["options"].split(","):
            version, place = _VERSION_1, places.get("memory")
        else:
            continue
        if place is not None:
            top = root / mount["point"].lstrip("/")
            found.append((version, _within(top, PurePosixPath(mount["root"]), PurePosixPath(place)), top))
    return found


def _places(text: str) -> dict[str, str]:
    """The group's path by controller, from `/proc/self/cgroup`; version 2 has no controller's name."""
    lines = (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2)
    return {controller: path for _, names, path in lines for controller in names.split(",")}


def _within(top: Path, mounted: PurePosixPath, place: PurePosixPath) -> Path:
    """The folder of a group below its mount, which may show only a part of the hierarchy."""
    if ".." in place.parts:
        return top  # a group outside of what this container sees
    if place.is_relative_to(mounted):
        folder = top / place.relative_to(mounted)
        return folder if folder.is_dir() else top
    return top


def _read_group(folder: Path, version: _Version) -> Group | None:
    limits = [int(text) for name in version.limits if (text := _text(folder / name).strip()).isdigit()]
    limit = min(limits, default=_UNLIMITED)
    usage = _text(folder / version.usage).strip()
    if limit >= _UNLIMITED or not usage.isdigit():
        return None
    pairs = (line.split() for line in _text(folder / "memory.stat").splitlines())
    stat = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
    droppable = sum(stat.get(name, 0) for name in version.droppable)
    return Group(limit, max(0, int(usage) - droppable))


def _text(path: Path) -> str:
    """Empty when there is no such file, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
