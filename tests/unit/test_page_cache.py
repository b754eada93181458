"""Prefetching weights: they are in memory soon after, and what is not there does no harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ekiben.fleet.processes.page_cache import prefetch

SIZE_BYTES = 4 * 2**20


def cached(path: Path) -> bool:
    """Whether the file's end can be read without waiting for the disk."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4096)], SIZE_BYTES - 4096, os.RWF_NOWAIT) == 4096
        except BlockingIOError:
            return False


@pytest.mark.parametrize("whole_folder", [True, False])
def test_weights_come_into_memory(tmp_path: Path, whole_folder: bool) -> None:
    weights = tmp_path / "part" / "weights.bin"
    weights.parent.mkdir()
    with weights.open("wb") as file:
        file.write(os.urandom(SIZE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(weights):
        pytest.skip("this file system keeps everything in memory")
    prefetch(tmp_path if whole_folder else weights)
    deadline = time.monotonic() + 10
    while not cached(weights):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_missing_weights_are_left_to_the_engine(tmp_path: Path) -> None:
    prefetch(tmp_path / "nothing.gguf")
