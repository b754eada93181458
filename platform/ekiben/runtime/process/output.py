"""Standard output and error of a replica: its log, which may lie on a disk that is full.

What cannot be written is lost, and the request that an engine served when it printed is not.
"""

from __future__ import annotations

import io
import sys
from typing import Any


class _LossyFile(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def survive_full_disks() -> None:
    """From now on `print` never fails for want of room. Native code does not look anyway."""
    sys.stdout, sys.stderr = _stream(1), _stream(2)


def _stream(fd: int) -> io.TextIOWrapper:
    file = _LossyFile(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(file), errors="backslashreplace", write_through=True)
