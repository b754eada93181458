"""The size of an installation: what the distribution and all that it requires take on disk."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

SETS: dict[str, tuple[str, ...]] = {"base": (), "default CPU engines": ("cpu",)}


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    for name, extras in SETS.items():
        found = closure("ekiben", frozenset(extras))
        size = sum(size_bytes(metadata.distribution(each)) for each in found)
        yield {"row": name, "distributions": len(found), "size_mb": round(size / 2**20, 1)}


def closure(name: str, extras: frozenset[str], seen: set[str] | None = None) -> set[str]:
    """The names of a distribution and all that it requires, as installed here."""
    seen = set() if seen is None else seen
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return seen
    if distribution.name in seen and not extras:
        return seen
    seen.add(distribution.name)
    for text in distribution.requires or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
            wanted = frozenset(requirement.extras)
            if requirement.name not in seen or wanted:
                closure(requirement.name, wanted, seen)
    return seen


def size_bytes(distribution: metadata.Distribution) -> int:
    """What its files take, bytecode included."""
    paths = (Path(str(distribution.locate_file(file))) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())
