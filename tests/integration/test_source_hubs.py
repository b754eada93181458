"""The huggingface and modelscope sources against local servers that speak the hubs' APIs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ekiben.catalog.shelf import Shelf
from ekiben.catalog.weights import WeightsStore
from ekiben.contract import FetchFailed, FetchProgress, SourceSpec
from ekiben.plugins.discovery import discover
from tests.servers import HuggingFaceHub, ModelScopeHub

REPO = "owner/tiny-model"
WEIGHTS = random.Random(2).randbytes(3_000_000)
PICKLE = b"\x80\x04\x95canary"
CONTENT = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": PICKLE,
    "modeling_tiny.py": b"raise SystemExit",
    "tf_model.h5": b"the same again",
    "onnx/model.onnx": b"the same again",
    ".gitattributes": b"*.bin filter=lfs",
    "picture.png": b"a picture",
    "sub/extra.safetensors": b"extra weights",
    "sub/notes.txt": b"notes",
}
Hub = HuggingFaceHub | ModelScopeHub


class Bench:
    def __init__(self, folder: Path, kind: str, hub: Hub, url: str) -> None:
        self.home = folder / "home"
        self.kind = kind
        self.hub = hub
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "MODELSCOPE_")) and not name.lower().endswith("_proxy")
        } | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(folder / "hf"),
            "MODELSCOPE_ENDPOINT": url,
            "MODELSCOPE_HOME": str(folder / "ms"),
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        }
        self.reports: list[FetchProgress] = []

    def spec(self, **parameters: Any) -> SourceSpec:
        return SourceSpec.model_validate({"kind": self.kind, "repo": REPO} | parameters)

    async def fetch(self, source: SourceSpec | None = None, **environment: str) -> Path:
        store = WeightsStore(
            self.home, discover(), environment=self.environment | environment, stall_timeout_s=60
        )
        return await store.ensure(source or self.spec(), report=self.reports.append)

    def token(self) -> dict[str, str]:
        name = "HF_TOKEN" if self.kind == "huggingface" else "MODELSCOPE_API_TOKEN"
        return {name: "canary-token"}

    def partial_bytes(self) -> int:
        part = Shelf.of(self.home, self.spec()).part
        return sum(path.stat().st_size for path in part.rglob("*") if path.is_file())

    def ranges(self) -> list[str]:
        gets = [*self.hub.gets("resolve"), *self.hub.gets("FilePath=model.safetensors")]
        return [headers["range"] for headers in gets if "range" in headers]


@pytest.fixture(params=["huggingface", "modelscope"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    hub: Hub = (HuggingFaceHub if request.param == "huggingface" else ModelScopeHub)(REPO, dict(CONTENT))
    with hub.running() as url:
        yield Bench(tmp_path, request.param, hub, url)


@pytest.fixture
def huggingface(tmp_path: Path) -> Iterator[Bench]:
    hub = HuggingFaceHub(REPO, dict(CONTENT))
    with hub.running() as url:
        yield Bench(tmp_path, "huggingface", hub, url)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_a_repository_comes_without_code_pickles_and_duplicates(bench: Bench) -> None:
    """Rows G1 and G2: what could run when loaded is not even downloaded."""
    folder = await bench.fetch()
    assert names(folder) == {"config.json", "model.safetensors", "sub/extra.safetensors", "sub/notes.txt"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not bench.hub.gets("modeling_tiny") and not bench.hub.gets("pytorch_model")
    assert (
        bench.reports[-1].done_bytes
        == bench.reports[-1].total_bytes
        == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    )


async def test_parts_of_a_repository(bench: Bench) -> None:
    assert (await bench.fetch(bench.spec(file="model.safetensors"))).read_bytes() == WEIGHTS
    folder = await bench.fetch(bench.spec(subfolder="sub"))
    assert names(folder) == {"extra.safetensors", "notes.txt"}


async def test_a_killed_download_goes_on_where_it_was(bench: Bench) -> None:
    """Row D12: kill -9 in the middle, nothing half is visible, and the rest is all that is asked for."""
    bench.hub.stop_after_bytes = 1_800_000
    task = asyncio.create_task(bench.fetch())
    assert await asyncio.to_thread(bench.hub.stopped.wait, 30)
    worker = next(
        child for child in psutil.Process().children() if "ekiben.plugins.fetch_worker" in child.cmdline()
    )
    while bench.partial_bytes() < 1_000_000:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(FetchFailed, match="killed by SIGKILL"):
        await task
    bench.hub.go_on.set()
    folder = await bench.fetch()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    (asked,) = bench.ranges()
    assert int(asked.removeprefix("bytes=").partition("-")[0]) >= 1_000_000


async def test_a_damaged_file_is_refused_and_fetched_anew(bench: Bench) -> None:
    bench.hub.damaged = {"model.safetensors"}
    with pytest.raises(FetchFailed):
        await bench.fetch(bench.spec(file="model.safetensors"))
    bench.hub.damaged = set()
    assert (await bench.fetch(bench.spec(file="model.safetensors"))).read_bytes() == WEIGHTS


async def test_a_token_is_sent_and_needed(bench: Bench) -> None:
    bench.hub.token = "canary-token"
    with pytest.raises(FetchFailed, match=r"set (HF_TOKEN|MODELSCOPE_API_TOKEN)"):
        await bench.fetch()
    folder = await bench.fetch(None, **bench.token())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not any(b"canary" in path.read_bytes() for path in bench.home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"revision": "gone"}, "revision 'gone'"),
        ({"repo": "owner/other"}, "there is no .*'owner/other'"),
        ({"repo": "not a name"}, "'not a name'"),
        ({"file": "pytorch_model.bin"}, "pickles, which can run code"),
    ],
)
async def test_what_cannot_be_had_is_said(bench: Bench, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(FetchFailed, match=message):
        await bench.fetch(bench.spec(**parameters))


async def test_a_repository_of_pickles_is_refused(bench: Bench) -> None:
    for name in ("model.safetensors", "sub/extra.safetensors", "onnx/model.onnx"):
        del bench.hub.content[name]
    with pytest.raises(FetchFailed, match=r"the only weights there are pytorch_model\.bin: pickles"):
        await bench.fetch()


async def test_a_pickle_under_another_name_is_refused(bench: Bench) -> None:
    bench.hub.content["model.safetensors"] = PICKLE
    with pytest.raises(FetchFailed, match=r"model\.safetensors is a pickle"):
        await bench.fetch()
    assert not [path for path in bench.home.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


async def test_a_repository_cannot_write_elsewhere(bench: Bench) -> None:
    """Row G5."""
    bench.hub.content["../escaped.safetensors"] = b"weights"
    with pytest.raises(
        FetchFailed, match=r"'\.\./escaped\.safetensors' is not a file name that stays inside"
    ):
        await bench.fetch(bench.spec(allow=["*.safetensors"]))
    assert not list(bench.home.rglob("escaped*"))


async def test_a_hub_that_does_not_answer(bench: Bench) -> None:
    with pytest.raises(FetchFailed, match=r"'owner/tiny-model' could not be|cannot be reached"):
        await bench.fetch(HF_ENDPOINT="http://127.0.0.1:9", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")


async def test_a_branch_is_pinned_when_the_download_begins(huggingface: Bench) -> None:
    await huggingface.fetch(huggingface.spec(file="model.safetensors", revision="v1"))
    assert huggingface.hub.gets(f"resolve/{HuggingFaceHub.commit}/")
    assert not huggingface.hub.gets("resolve/v1/")


async def test_offline_nothing_is_asked_and_the_cache_serves(huggingface: Bench, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="HF_HUB_OFFLINE is set"):
        await huggingface.fetch(HF_HUB_OFFLINE="1")
    assert not huggingface.hub.requests
    cache = tmp_path / "hf" / "hub" / "models--owner--tiny-model"
    snapshot = cache / "snapshots" / HuggingFaceHub.commit
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(HuggingFaceHub.commit)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (snapshot / name).write_bytes(CONTENT[name])
    folder = await huggingface.fetch(HF_HUB_OFFLINE="1")
    assert names(folder) == {"config.json", "model.safetensors"}
    assert not huggingface.hub.requests
    assert (folder / "model.safetensors").samefile(snapshot / "model.safetensors")


async def test_a_hub_without_ranges_is_asked_for_everything_again(huggingface: Bench) -> None:
    huggingface.hub.break_after_bytes = 1_800_000
    huggingface.hub.ranges = False
    assert (await huggingface.fetch(huggingface.spec(file="model.safetensors"))).read_bytes() == WEIGHTS
