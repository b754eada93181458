"""Loading with the llama_cpp engine: memory, sockets, broken files."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ekiben.contract import LoadFailed
from ekiben_llama_cpp.engine import LlamaCpp
from tests.integration.llama_lab import FRUITS, MODEL, Weights, load_order, loaded, whole_chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_estimate_is_near_what_is_taken(weights: Weights, tmp_path: Path) -> None:
    path = await asyncio.to_thread(weights, MODEL)
    options = {"context": 8192, "parallel": 4}
    estimate = LlamaCpp().estimate_memory(load_order(path, tmp_path, **options))
    assert estimate.weights_bytes == path.stat().st_size
    before = psutil.Process().memory_info().rss
    async with loaded(path, tmp_path, **options) as model:
        await whole_chat(model, messages=FRUITS, max_tokens=1)
        taken = psutil.Process().memory_info().rss - before
    assert 0.8 * taken < estimate.total_bytes < 1.3 * taken
    assert psutil.Process().memory_info().rss - before < 0.2 * taken, "unloading must give it back"


async def test_a_socket_far_down_the_tree_is_reached(weights: Weights, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, deep, context=256, parallel=1) as model:
        assert (await whole_chat(model, messages=FRUITS, max_tokens=1)).choices


def truncated(good: Path, bad: Path) -> None:
    with good.open("rb") as source:
        bad.write_bytes(source.read(50_000_000))


def unknown_architecture(good: Path, bad: Path) -> None:
    shutil.copyfile(good, bad)
    with bad.open("r+b") as file:
        head = file.read(4096)
        at = head.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
        assert head[at : at + 5] == b"llama"
        for place in [at, *range(4096)]:
            if head[place : place + 6] in (b"llama.",) or place == at:
                file.seek(place)
                file.write(b"lzzma")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _, bad: bad.write_bytes(b""), "not a GGUF file"),
        (lambda _, bad: bad.write_bytes(b"<html>not here</html>"), "not a GGUF file"),
        (lambda _, bad: bad.write_bytes(b"GGUF" + bytes(range(256)) * 40), "GGUF file"),
        (lambda _, bad: None, "cannot be read"),
        (lambda _, bad: bad.mkdir(), "cannot be read"),
        (truncated, "broken GGUF file"),
        (unknown_architecture, "unknown model architecture"),
    ],
    ids=["empty", "html", "garbage", "absent", "folder", "truncated", "architecture"],
)
async def test_broken_files_are_refused_in_a_sentence(
    weights: Weights, tmp_path: Path, spoil: Callable[[Path, Path], object], reason: str
) -> None:
    bad = tmp_path / "bad.gguf"
    spoil(await asyncio.to_thread(weights, MODEL), bad)
    with pytest.raises(LoadFailed, match=reason) as caught:
        await LlamaCpp().load(load_order(bad, tmp_path))
    assert "\n" not in caught.value.message
