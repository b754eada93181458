"""What a model would take is told without starting it, and an engine that cannot tell harms nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.errors import LoadFailed
from ekiben.fleet.memory.estimates import Estimates
from ekiben.fleet.processes.berths import Plan
from ekiben.plugins.bentos import bento_folder
from ekiben.plugins.discovery import discover

NAME = "smollm2-135m-instruct"
WAIT = "import sys, time; sys.stdin.read(); time.sleep(600)"


def plan(weights: Path, **options: Any) -> Plan:
    spec = resolve_model(NAME, plugins=discover())
    variant = spec.variants[0].model_copy(update={"options": options})
    spec = spec.model_copy(update={"variants": (variant,)})
    bento = bento_folder(spec.family)
    return Plan(model=spec, variant=0, weights=weights, bento=bento, device="cpu", threads=2)


def asking(**changes: Any) -> Estimates:
    return Estimates(environment=os.environ, **changes)


async def test_an_estimate_follows_the_options(weights: Callable[[str], Path]) -> None:
    path = await asyncio.to_thread(weights, NAME)
    estimates = asking()
    small = await estimates.need(plan(path, context=512, parallel=1))
    large = await estimates.need(plan(path, context=8192, parallel=4))
    assert small.keys() == large.keys() == {"cpu"}
    assert path.stat().st_size < small["cpu"] < 400_000_000
    assert 500_000_000 < large["cpu"] - small["cpu"] < 1_000_000_000


async def test_it_is_asked_once_and_again_when_the_weights_change(
    weights: Callable[[str], Path], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    answer = tmp_path / "m.gguf"
    answer.touch()
    script = (
        "import sys; sys.stdin.read(); open(sys.argv[1], 'a').write('x'); print('{\"memory\": {\"cpu\": 5}}')"
    )
    estimates = asking(command=(sys.executable, "-c", script, str(calls)))
    for _ in range(2):
        assert await estimates.need(plan(answer)) == {"cpu": 5}
    assert calls.read_text() == "x"
    os.utime(answer, ns=(0, 0))
    await estimates.need(plan(answer))
    await estimates.need(replace(plan(answer), device="cuda:0"))
    assert calls.read_text() == "xxx"


async def test_weights_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "m.gguf"
    broken.write_bytes(b"nonsense")
    with pytest.raises(LoadFailed, match=r"m\.gguf"):
        await asking().need(plan(broken))


async def test_an_engine_that_breaks_down_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"'llama_cpp' cannot tell what .* takes: its process broke"):
        await asking(command=(sys.executable, "-c", "import os; os.abort()")).need(plan(tmp_path))


async def test_an_engine_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="it did not answer within 1 s"):
        await asking(command=(sys.executable, "-c", WAIT), deadline_s=1).need(plan(tmp_path))
    assert not psutil.Process().children()


async def test_who_does_not_want_to_know_any_more_leaves_no_process(tmp_path: Path) -> None:
    there = tmp_path / "there"
    os.mkfifo(there)
    script = f"open(sys.argv[1], 'w').close(); {WAIT}"
    estimates = asking(command=(sys.executable, "-c", f"import sys; {script}", str(there)))
    task = asyncio.create_task(estimates.need(plan(tmp_path)))
    await asyncio.to_thread(there.read_bytes)
    assert psutil.Process().children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.Process().children()
