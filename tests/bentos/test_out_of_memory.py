"""Loads that fail for want of memory are told apart from all others."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.errors import LoadFailed
from ekiben.fleet.processes.berths import Berths, Plan
from ekiben.fleet.processes.launcher import SpawnLauncher
from ekiben.plugins.bentos import bento_folder
from ekiben.plugins.discovery import discover
from ekiben.runtime.process.shortage import is_shortage
from ekiben.runtime.protocol import Report, Stage

GREEDY = {"context": 8192, "parallel": 32}
"""About 6 GB of keys and values."""
ROOM_BYTES = 2**30


class OutOfMemoryError(RuntimeError):
    """torch's is called so."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ENOMEM, "no"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("mkl_malloc: failed to allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        LoadFailed("llama.cpp cannot load 'm.gguf': insufficient memory (attempted to allocate 2880.00 MB)"),
    ],
)
def test_shortage_is_known_by_its_words_and_through_other_errors(error: Exception) -> None:
    assert is_shortage(error)
    outer = LoadFailed("the model cannot be loaded")
    outer.__cause__ = error
    assert is_shortage(outer)


def test_other_errors_are_no_shortage() -> None:
    assert not is_shortage(LoadFailed("the file is broken: no tensor 'output'"))
    assert not is_shortage(OSError(errno.ENOENT, "no such file"))


async def test_llama_cpp_without_enough_memory(folder: Path, weights: Callable[[str], Path]) -> None:
    spec = resolve_model("smollm2-135m-instruct", plugins=discover())
    variant = spec.variants[0].model_copy(update={"options": GREEDY})
    reports: asyncio.Queue[Report] = asyncio.Queue()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    (folder / "logs").mkdir()
    launcher = SpawnLauncher(
        berths=Berths(run_folder=folder / "run", log_folder=folder / "logs"), environment=os.environ
    )
    process = launcher.launch(
        "r1",
        plan=Plan(
            model=spec.model_copy(update={"variants": (variant,)}),
            variant=0,
            weights=weights(spec.name),
            bento=bento_folder(spec.family),
            device="cpu",
            threads=1,
        ),
        go=False,
        on_report=reports.put_nowait,
        on_exit=ended.set_result,
    )
    async with asyncio.timeout(60):
        while (report := await reports.get()).host_bytes is None:
            pass
        assert report.host_bytes > 5 * 2**30, "it is told before it is tried"
        assert process.pid is not None
        limit = psutil.Process(process.pid).memory_info().vms + ROOM_BYTES
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        process.go()
        while report.stage is not Stage.FAILED:
            report = await reports.get()
        assert (await ended).startswith("the process ended with exit code 3")
    launcher.close()
    assert report.out_of_memory, report.error
