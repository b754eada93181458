"""The line between a replica and the platform that started it: reports go out, one word comes back."""

from __future__ import annotations

import asyncio
import logging
import os

from ekiben.errors import LoadFailed
from ekiben.runtime.protocol import GO, Report

logger = logging.getLogger(__name__)


class Channel:
    """The replica's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)

    def report(self, report: Report) -> None:
        """May be called from any thread: a line is written in one piece."""
        try:
            os.write(self._fd, report.model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError as error:
            logger.warning("the platform does not hear reports: %s", error)

    async def told_to_go(self) -> None:
        """Returns when the platform says so. Raises LoadFailed when it never will."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
        if (word := os.read(self._fd, len(GO))) != GO:
            raise LoadFailed(f"the platform said {word!r} instead of go, so nothing is loaded")
