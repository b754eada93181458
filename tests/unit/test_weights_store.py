"""The weights store: shared, resumable, atomic fetches, whatever the source does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ekiben.catalog.weights import WeightsStore
from ekiben.contract import FetchFailed, FetchProgress, SourceSpec
from ekiben.contract.manifest import Manifest, Option, PluginKind, SourceSection
from ekiben.errors import Conflict
from ekiben.plugins.discovery import Plugin, Plugins

ODD_SOURCES = Path(__file__).parent.parent / "fixtures" / "odd_sources"
PARAMETERS = ("log", "gate", "then", "result")


def odd_plugins(*, requires: tuple[str, ...] = ()) -> Plugins:
    manifest = Manifest(
        id="told",
        kind=PluginKind.SOURCE,
        api=1,
        name="Told",
        summary="",
        object="odd_sources:Told",
        requires=requires,
        source=SourceSection(
            parameters={name: Option(type="string", help="", required=name == "log") for name in PARAMETERS}
        ),
    )
    return Plugins({"told": Plugin(manifest, "tests", "1", ODD_SOURCES)})


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ODD_SOURCES)}


class Gate:
    """Holds a source halfway until it is opened."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end = os.open(path, os.O_RDWR)

    def open(self) -> None:
        os.write(self._end, b"\n")

    def close(self) -> None:
        os.close(self._end)


class Reports:
    """Remembers progress and says when there is some."""

    def __init__(self) -> None:
        self.all: list[FetchProgress] = []
        self.some = asyncio.Event()

    def __call__(self, progress: FetchProgress) -> None:
        self.all.append(progress)
        self.some.set()


class Bench:
    """A home, a source that logs its starts, and a gate for it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "starts.log"
        self.gate = Gate(folder / "gate")
        self.part = self.home / "weights" / "told"

    def store(self, **options: Any) -> WeightsStore:
        return WeightsStore(
            self.home, odd_plugins(), environment=environment(), **{"stall_timeout_s": 20.0, **options}
        )

    def source(self, *, gated: bool = False, **parameters: str) -> SourceSpec:
        gate = {"gate": str(self.gate.path)} if gated else {}
        return SourceSpec.model_validate({"kind": "told", "log": str(self.log), **gate, **parameters})

    def starts(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]

    def entries(self, suffix: str) -> list[Path]:
        return list((self.home / "weights" / "told").glob(f"*{suffix}"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.gate.close()


def ignore(progress: FetchProgress) -> None:
    """For tests that look at something else."""


async def test_weights_are_visible_only_when_whole(bench: Bench) -> None:
    store, source, reports = bench.store(), bench.source(gated=True), Reports()
    task = asyncio.create_task(store.ensure(source, report=reports))
    await reports.some.wait()
    assert store.local_path(source) is None
    assert store.size_bytes(source) is None
    assert not [path for path in bench.entries("") if path.suffix not in (".part", ".lock")]
    bench.gate.open()
    path = await task
    assert path.read_bytes() == b"a" * 500 + b"b" * 500
    assert store.local_path(source) == path
    assert store.size_bytes(source) == 1000
    assert not bench.entries(".part")
    assert reports.all[-1] == FetchProgress(done_bytes=1000, total_bytes=1000, file="weights.bin")


async def test_the_second_time_nothing_is_started(bench: Bench) -> None:
    source = bench.source()
    first = await bench.store().ensure(source, report=ignore)
    assert await bench.store().ensure(source, report=ignore) == first
    assert len(bench.starts()) == 1


async def test_the_same_source_written_differently_is_the_same(bench: Bench) -> None:
    await bench.store().ensure(bench.source(result="weights.bin"), report=ignore)
    written = {"result": "weights.bin", "log": str(bench.log), "kind": "told"}
    assert bench.store().local_path(SourceSpec(**written)) is not None
    assert bench.store().local_path(bench.source()) is None


async def test_callers_in_one_process_share_a_fetch(bench: Bench) -> None:
    store, source = bench.store(), bench.source(gated=True)
    reports = [Reports() for _ in range(8)]
    tasks = [asyncio.create_task(store.ensure(source, report=report)) for report in reports]
    await asyncio.gather(*(report.some.wait() for report in reports))
    late = Reports()
    tasks.append(asyncio.create_task(store.ensure(source, report=late)))
    await late.some.wait()
    assert late.all[0].done_bytes == 500
    bench.gate.open()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert len(bench.starts()) == 1


async def test_two_stores_share_a_fetch_through_the_lock(bench: Bench) -> None:
    source, first, second = bench.source(gated=True), Reports(), Reports()
    tasks = [asyncio.create_task(bench.store().ensure(source, report=first))]
    await first.some.wait()
    tasks.append(asyncio.create_task(bench.store().ensure(source, report=second)))
    await second.some.wait()
    assert second.all[0] == FetchProgress(done_bytes=500, total_bytes=1000, file="start 0")
    bench.gate.open()
    assert len(set(await asyncio.gather(*tasks))) == 1
    assert len(bench.starts()) == 1


async def test_a_fetch_goes_on_while_somebody_waits_and_stops_with_the_last(bench: Bench) -> None:
    store, source, reports = bench.store(), bench.source(gated=True), Reports()
    first, second = (asyncio.create_task(store.ensure(source, report=reports)) for _ in range(2))
    await reports.some.wait()
    (pid,) = bench.starts()
    first.cancel()
    await asyncio.wait({first})
    assert psutil.pid_exists(pid)
    second.cancel()
    await asyncio.wait({second})
    assert second.cancelled()
    assert not psutil.pid_exists(pid)
    assert len(bench.entries(".part")) == 1


async def test_what_a_stopped_fetch_left_is_used_by_the_next(bench: Bench) -> None:
    store, source, reports = bench.store(), bench.source(gated=True), Reports()
    task = asyncio.create_task(store.ensure(source, report=reports))
    await reports.some.wait()
    task.cancel()
    await asyncio.wait({task})
    again = Reports()
    bench.gate.open()
    await store.ensure(source, report=again)
    assert again.all[0].file == "start 500"


async def test_joining_while_the_last_one_leaves_starts_anew(bench: Bench) -> None:
    store, source, reports = bench.store(), bench.source(gated=True), Reports()
    leaving = asyncio.create_task(store.ensure(source, report=reports))
    await reports.some.wait()
    leaving.cancel()
    await asyncio.sleep(0)  # it has given up, its worker may still live
    again = Reports()
    joining = asyncio.create_task(store.ensure(source, report=again))
    await again.some.wait()
    # The first worker, as long as it lives, may be told of as well, and take what opens the gate.
    while len(bench.starts()) < 2:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    bench.gate.open()
    assert (await joining).stat().st_size == 1000
    assert len(bench.starts()) == 2


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("refuse", "there is no such thing: ask for another"),
        ("stumble", "the source 'told' failed: ValueError: surprise over two lines"),
        ("leave", "the worker of source 'told' ended with code 7: a library gave up"),
        ("crash", "the worker of source 'told' was killed by SIGSEGV: a library that talks on stdout"),
    ],
)
async def test_whatever_a_source_does_wrong_becomes_one_sentence(
    bench: Bench, then: str, message: str
) -> None:
    with pytest.raises(FetchFailed) as caught:
        await bench.store().ensure(bench.source(then=then), report=ignore)
    assert caught.value.message == message
    assert bench.store().local_path(bench.source(then=then)) is None


async def test_a_silent_source_is_given_up_and_killed(bench: Bench) -> None:
    with pytest.raises(FetchFailed, match=r"nothing came for 0\.7 s"):
        await bench.store(stall_timeout_s=0.7).ensure(bench.source(then="hang"), report=ignore)
    assert not psutil.pid_exists(bench.starts()[0])


async def test_a_library_that_writes_to_stdout_harms_nothing(bench: Bench) -> None:
    path = await bench.store().ensure(bench.source(then="babble"), report=ignore)
    assert path.stat().st_size == 1000


async def test_a_result_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(FetchFailed, match="nothing is there"):
        await bench.store().ensure(bench.source(result="other.bin"), report=ignore)


async def test_a_full_disk_says_how_much_is_missing_and_gives_the_room_back(bench: Bench) -> None:
    with pytest.raises(FetchFailed, match=r"is full: 500 B more are needed, .* free"):
        await bench.store().ensure(bench.source(then="fill_the_disk"), report=ignore)
    assert not bench.entries(".part")


@pytest.mark.parametrize("damage", ["shorten", "delete"])
async def test_damaged_weights_are_not_given_out_but_fetched_again(bench: Bench, damage: str) -> None:
    store, source = bench.store(), bench.source()
    path = await store.ensure(source, report=ignore)
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(b"a")
    assert store.local_path(source) is None
    assert (await store.ensure(source, report=ignore)).stat().st_size == 1000
    assert len(bench.starts()) == 2


async def test_a_torn_marker_counts_as_none(bench: Bench) -> None:
    store, source = bench.store(), bench.source()
    path = await store.ensure(source, report=ignore)
    marker = path.parent.parent / "weights.json"
    marker.write_text(marker.read_text()[:30])
    assert store.local_path(source) is None
    await store.ensure(source, report=ignore)
    assert json.loads(marker.read_text())["source"]["kind"] == "told"


async def test_removing(bench: Bench) -> None:
    store, source, reports = bench.store(), bench.source(gated=True), Reports()
    store.remove(source)
    task = asyncio.create_task(store.ensure(source, report=reports))
    await reports.some.wait()
    with pytest.raises(Conflict, match="being fetched"):
        store.remove(source)
    bench.gate.open()
    path = await task
    store.remove(source)
    assert not path.exists()
    assert store.local_path(source) is None
    store.remove(source)


async def test_a_home_that_cannot_be_written(bench: Bench) -> None:
    bench.home.mkdir()
    (bench.home / "weights").write_text("a file is in the way")
    with pytest.raises(FetchFailed, match=r"cannot be written under .*home: Not a directory"):
        await bench.store().ensure(bench.source(), report=ignore)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "nowhere"}, r"there is no source 'nowhere' here \(installed: told\)"),
        ({"kind": "../told"}, "there is no source"),
        ({"kind": "told"}, "'log' is required"),
        ({"kind": "told", "log": 3}, "'log' must be of type string, not 3"),
        ({"kind": "told", "log": "x", "other": 1}, "'other' is not known here"),
    ],
)
async def test_a_spec_is_checked_before_anything_starts(
    bench: Bench, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(FetchFailed, match=message):
        await bench.store().ensure(SourceSpec(**spec), report=ignore)
    assert not bench.home.exists()


async def test_a_source_whose_library_is_missing_says_how_to_install_it(bench: Bench) -> None:
    store = WeightsStore(bench.home, odd_plugins(requires=("surely-not-installed>=3",)))
    with pytest.raises(FetchFailed, match="pip install 'surely-not-installed>=3'"):
        await store.ensure(bench.source(), report=ignore)


def test_the_worker_dies_with_a_killed_platform_and_its_lock_with_it(bench: Bench) -> None:
    """Row D3: nothing of a fetch outlives kill -9, and the next platform goes on."""
    source = bench.source(gated=True)
    platform = subprocess.Popen(
        [sys.executable, "-c", _PLATFORM, str(bench.home), source.model_dump_json()],
        stdout=subprocess.PIPE,
        env={**environment(), "PYTHONPATH": f"{ODD_SOURCES}:{Path(__file__).parent}"},
    )
    assert platform.stdout is not None
    with platform, platform.stdout:
        assert platform.stdout.readline() == b"500\n"
        worker = psutil.Process(bench.starts()[0])
        platform.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running()
    bench.gate.open()
    path = asyncio.run(bench.store().ensure(source, report=ignore))
    assert path.stat().st_size == 1000


_PLATFORM = """
import asyncio, json, sys
from pathlib import Path
from ekiben.contract import SourceSpec
from test_weights_store import WeightsStore, environment, odd_plugins
store = WeightsStore(Path(sys.argv[1]), odd_plugins(), environment=environment())
source = SourceSpec(**json.loads(sys.argv[2]))
asyncio.run(store.ensure(source, report=lambda progress: print(progress.done_bytes, flush=True)))
"""


def test_the_store_works_on_uvloop(bench: Bench, run_on_uvloop: Callable[..., Any]) -> None:
    path = run_on_uvloop(bench.store().ensure(bench.source(), report=ignore))
    assert path.stat().st_size == 1000


@pytest.fixture
def run_on_uvloop() -> Callable[..., Any]:
    import uvloop

    def run(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(coroutine)

    return run
