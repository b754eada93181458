"""The line between a replica and the platform that started it: reports go out, words come back."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Final

from ekiben.errors import LoadFailed
from ekiben.runtime.protocol import GO, Report, Stage, Work

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 4096


class Channel:
    """The replica's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)
        self._heard = b""

    def report(self, report: Report) -> None:
        """May be called from any thread: a line is written in one piece."""
        try:
            os.write(self._fd, report.model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError as error:
            logger.warning("the platform does not hear reports: %s", error)

    def tell_work(self, work: Sequence[Work]) -> None:
        """What is under way now. Never blocks: a platform that does not listen misses it."""
        report = Report(stage=Stage.READY, work=tuple(work))
        line = report.model_dump_json(exclude_none=True).encode() + b"\n"
        with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as ours:
            ours.send(line, socket.MSG_DONTWAIT)

    async def told_to_go(self) -> None:
        """Returns when the platform says so. Raises LoadFailed when it never will."""
        if (word := await self._word()) != GO:
            raise LoadFailed(f"the platform said {word!r} instead of go, so nothing is loaded")

    async def words(self) -> AsyncGenerator[bytes, None]:
        """What the platform says, until it hangs up."""
        while word := await self._word():
            yield word

    async def _word(self) -> bytes:
        """The next line; empty when there will be none."""
        while b"\n" not in self._heard:
            await self._readable()
            if not (data := self._read()):
                return b""
            self._heard += data
        word, _, self._heard = self._heard.partition(b"\n")
        return word + b"\n"

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES)
        except ConnectionResetError:  # it ended without having read everything
            return b""

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
