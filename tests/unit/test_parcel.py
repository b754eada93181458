"""Weights with what comes beside them: fetched together, counted together, stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.catalog.parcel import Parcel, fetch_parcel, local_parcel
from ekiben.contract.model import SourceSpec, Variant
from ekiben.contract.source import FetchProgress
from ekiben.errors import FetchFailed


def source(name: str) -> SourceSpec:
    return SourceSpec.model_validate({"kind": "local", "path": name})


VARIANT = Variant(
    format="gguf",
    engine="small",
    source=source("weights"),
    companions={"mmproj": source("eyes")},
    adapters={"tone": source("tone")},
)
ALL = Parcel(Path("/weights"), {"mmproj": Path("/eyes")}, {"tone": Path("/tone")})


class Shelves:
    """Fetches go on as long as they are told to."""

    def __init__(self, here: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.here = set(here)
        self.reports: dict[str, Callable[[FetchProgress], None]] = {}
        self.ends: dict[str, asyncio.Future[None]] = {}
        self.stopped: list[str] = []
        self.begun = asyncio.Event()

    def local_path(self, source: SourceSpec) -> Path | None:
        name = str(source.parameters["path"])
        return Path("/") / name if name in self.here else None

    async def ensure(self, source: SourceSpec, *, report: Callable[[FetchProgress], None]) -> Path:
        if (path := self.local_path(source)) is not None:
            return path
        name = str(source.parameters["path"])
        self.reports[name], self.ends[name] = report, asyncio.get_running_loop().create_future()
        if len(self.ends) == 3 - len(self.here):
            self.begun.set()
        try:
            await self.ends[name]
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # its process takes a moment to end
            self.stopped.append(name)
            raise
        return Path("/") / name

    def tell(self, name: str, done: int, total: int | None) -> None:
        self.reports[name](FetchProgress(done_bytes=done, total_bytes=total))


def test_a_parcel_is_here_when_all_of_it_is() -> None:
    assert local_parcel(VARIANT, Shelves({"weights", "eyes"})) is None
    assert local_parcel(VARIANT, Shelves({"weights", "eyes", "tone"})) == ALL
    plain = VARIANT.model_copy(update={"companions": {}, "adapters": {}})
    assert local_parcel(plain, Shelves({"weights"})) == Parcel(Path("/weights"))


async def test_progress_is_the_total_of_all_that_is_missing() -> None:
    shelves, told = Shelves({"tone"}), []
    task = asyncio.create_task(
        fetch_parcel(VARIANT, shelves, report=lambda p: told.append((p.done_bytes, p.total_bytes)))
    )
    await shelves.begun.wait()
    shelves.tell("weights", 10, 100)
    shelves.tell("eyes", 0, 50)
    shelves.tell("eyes", 50, 50)
    shelves.ends["eyes"].set_result(None)
    await asyncio.sleep(0)
    shelves.tell("weights", 100, 100)
    shelves.ends["weights"].set_result(None)
    assert await task == ALL
    assert told == [(10, None), (10, 150), (60, 150), (150, 150)]


async def test_the_first_failure_stops_the_rest_and_is_told() -> None:
    shelves = Shelves()
    task = asyncio.create_task(fetch_parcel(VARIANT, shelves, report=lambda progress: None))
    await shelves.begun.wait()
    shelves.ends["eyes"].set_exception(FetchFailed("no eyes"))
    with pytest.raises(FetchFailed, match="no eyes"):
        await task
    assert sorted(shelves.stopped) == ["tone", "weights"]


async def test_cancelled_it_returns_once_everything_has_stopped() -> None:
    shelves = Shelves()
    task = asyncio.create_task(fetch_parcel(VARIANT, shelves, report=lambda progress: None))
    await shelves.begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert sorted(shelves.stopped) == ["eyes", "tone", "weights"]
