"""All that one variant of a model is loaded with: its weights, their companions, its adapters.

Each of them is a source of its own and lies on a shelf of its own, which other models may share. Here
they are counted, looked for and fetched together; how one of them comes is the business of `weights`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ekiben.contract.model import SourceSpec, Variant
from ekiben.contract.source import FetchProgress

Report = Callable[[FetchProgress], None]


class Shelves(Protocol):
    """What is needed of the store of weights."""

    async def ensure(self, source: SourceSpec, *, report: Report) -> Path: ...

    def local_path(self, source: SourceSpec) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Parcel:
    """Where everything lies on this machine."""

    weights: Path
    companions: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)


def sources_of(variant: Variant) -> list[SourceSpec]:
    """The weights' source first."""
    return [variant.source, *variant.companions.values(), *variant.adapters.values()]


def local_parcel(variant: Variant, shelves: Shelves) -> Parcel | None:
    """What is here already, if that is all of it."""
    return _packed(variant, [shelves.local_path(source) for source in sources_of(variant)])


async def fetch_parcel(variant: Variant, shelves: Shelves, *, report: Report) -> Parcel:
    """Bring what is missing, all of it at the same time. Raises FetchFailed, the first; the rest stops then.

    `report` gets totals over everything that has to be fetched. When this returns, however it does, no
    fetch that it began goes on.
    """
    total = _Total(report)
    tasks = [
        asyncio.create_task(total.fetch(source, shelves), name=f"fetch {source.kind}")
        for source in sources_of(variant)
    ]
    try:
        paths = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            if not task.cancelling():  # a second time would break off its waiting for its own end
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    parcel = _packed(variant, paths)
    assert parcel is not None, "everything has just been brought"
    return parcel


class _Total:
    """Adds up the progress of several fetches. What is here already reports nothing, and counts as that."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._latest: dict[int, FetchProgress | None] = {}
        """Of each fetch; None until it has told."""

    async def fetch(self, source: SourceSpec, shelves: Shelves) -> Path:
        """One of them."""
        part = len(self._latest)
        self._latest[part] = None

        def tell(progress: FetchProgress) -> None:
            self._latest[part] = progress
            self._report(self._sum(progress.file))

        path = await shelves.ensure(source, report=tell)
        told = self._latest[part] or FetchProgress(done_bytes=0)
        whole = max(told.done_bytes, told.total_bytes or 0)
        self._latest[part] = FetchProgress(done_bytes=whole, total_bytes=whole)
        return path

    def _sum(self, file: str | None) -> FetchProgress:
        """The total is known once all fetches have told theirs: it must not grow under the reader's eyes."""
        parts = list(self._latest.values())
        totals = [None if part is None else part.total_bytes for part in parts]
        known = [total for total in totals if total is not None]
        return FetchProgress(
            done_bytes=sum(part.done_bytes for part in parts if part is not None),
            total_bytes=sum(known) if len(known) == len(totals) else None,
            file=file,
        )


def _packed(variant: Variant, paths: Sequence[Path | None]) -> Parcel | None:
    """Paths in the order of `sources_of`."""
    here = [path for path in paths if path is not None]
    if len(here) < len(paths):
        return None
    first, last = 1, 1 + len(variant.companions)
    return Parcel(
        here[0],
        dict(zip(variant.companions, here[first:last], strict=True)),
        dict(zip(variant.adapters, here[last:], strict=True)),
    )
