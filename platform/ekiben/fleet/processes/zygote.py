"""A zygote from the fleet's side: starts it, asks it for forks, notices its end.

Nothing here blocks: what takes time is awaited, and has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ekiben.fleet.processes.berths import Berth
from ekiben.fleet.processes.children import describe_exit, end_child
from ekiben.plugins.environments import Interpreter
from ekiben.runtime.process.footprint import host_bytes
from ekiben.runtime.protocol import ForkRequest, ZygoteNews

logger = logging.getLogger(__name__)

WARM_S: Final = 120.0
"""The imports of the largest engines take half a minute on a slow disk."""
ANSWER_S: Final = 5.0
"""A fork takes milliseconds, and more on a machine that is busy; to spawn instead would make it busier."""
_MAX_MESSAGE_BYTES: Final = 65536


class ZygoteFailed(Exception):
    """There is no fork to be had, for the reason given."""


class Zygote:
    """One process. `on_end` is called once, with the reason, unless it was stopped."""

    def __init__(
        self,
        engine: str,
        *,
        bento: Path,
        folder: Path,
        log_fd: int,
        interpreter: Interpreter,
        environment: Mapping[str, str],
        on_end: Callable[[str], None],
    ) -> None:
        """Start it. Raises OSError."""
        self.engine = engine
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._warm: asyncio.Future[None] = self._loop.create_future()
        self._warm.add_done_callback(_look_at)
        self._answers: deque[asyncio.Future[int]] = deque()
        self._ended = False
        with theirs:
            try:
                self._child = subprocess.Popen(
                    _command(interpreter, theirs.fileno(), engine, bento, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log_fd,
                    stderr=log_fd,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env={**interpreter.variables(environment), "PYTHONUNBUFFERED": "1"},
                )
            except OSError:
                self._control.close()
                raise
        self.pid = self._child.pid
        self._loop.add_reader(self._control, self._hear)
        self._deadline = self._loop.call_later(WARM_S, self.fail, f"it was not warm after {WARM_S:g} s")

    @property
    def is_warm(self) -> bool:
        return self._warm.done() and not self._ended

    def memory_bytes(self) -> int | None:
        """Its own part of what it shares with its replicas."""
        return host_bytes(self.pid)

    async def fork(self, berth: Berth) -> int:
        """The process id of a replica, a child of this process. Waits until the zygote is warm.

        Raises ZygoteFailed. Cancelled, it leaves no process behind.
        """
        await asyncio.shield(self._warm)
        if self._ended:
            raise ZygoteFailed("it has ended")
        request = ForkRequest(order=berth.order_path).model_dump_json().encode()
        answer: asyncio.Future[int] = self._loop.create_future()
        answer.add_done_callback(_look_at)
        try:
            socket.send_fds(self._control, [request], [berth.report_fd, berth.log_fd])
        except OSError as error:
            self.fail(f"it cannot be asked: {error}")
            raise ZygoteFailed(f"it cannot be asked: {error}") from None
        self._answers.append(answer)
        deadline = self._loop.call_later(ANSWER_S, self.fail, f"it did not answer for {ANSWER_S:g} s")
        try:
            return await answer
        finally:
            deadline.cancel()

    def stop(self) -> None:
        """End it. Its replicas live on. Waits for the kernel only."""
        if not self._ended:
            self._end("it was stopped")

    def fail(self, reason: str | None) -> None:
        """End it because it is of no use; idempotent. Without a reason: it has ended by itself."""
        if not self._ended:
            self._on_end(self._end(reason))

    def _hear(self) -> None:
        try:
            data = self._control.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.fail(None)
            return
        try:
            self._take(ZygoteNews.model_validate_json(data))
        except ValidationError:
            self.fail(f"it said {data[:200]!r}")

    def _take(self, news: ZygoteNews) -> None:
        if not self._warm.done():
            self._deadline.cancel()
            if news.error is not None:
                self.fail(news.error)
            else:
                self._warm.set_result(None)
            return
        if not self._answers:
            self.fail("it spoke without being asked")
            return
        answer = self._answers.popleft()
        if news.pid is None:
            if not answer.done():
                answer.set_exception(ZygoteFailed(news.error or "it gave no process"))
        elif answer.done():  # nobody waits for it any more
            end_child(news.pid)
        else:
            answer.set_result(news.pid)

    def _end(self, reason: str | None) -> str:
        self._ended = True
        self._deadline.cancel()
        self._loop.remove_reader(self._control)
        # Its group holds what it has forked and not told of yet. Not reaped yet: the id is still ours.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._child.wait()
        _reap_group(self.pid)
        self._drain()
        self._control.close()
        reason = reason or describe_exit(code)
        failure = ZygoteFailed(reason)
        if not self._warm.done():
            self._warm.set_exception(failure)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(failure)
        return reason

    def _drain(self) -> None:
        """What it answered last; of processes that nobody waits for any more, too."""
        while True:
            try:
                data = self._control.recv(_MAX_MESSAGE_BYTES)
                news = ZygoteNews.model_validate_json(data) if data else None
            except (OSError, ValidationError):
                return
            if news is None or not self._answers:
                return
            self._take(news)


def _reap_group(group: int) -> None:
    """Wait for the killed processes of a group, which came here when their parent died."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def _command(interpreter: Interpreter, control_fd: int, engine: str, bento: Path, folder: Path) -> list[str]:
    module = "ekiben.runtime.zygote"
    return [str(interpreter.python), "-m", module, str(control_fd), engine, str(bento), str(folder)]


def _look_at(future: asyncio.Future[int] | asyncio.Future[None]) -> None:
    """A failure that nobody waits for is nobody's concern."""
    if not future.cancelled():
        future.exception()
