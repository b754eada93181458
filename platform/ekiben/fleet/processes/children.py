"""A replica's process from the fleet's side, and the children that nobody else waits for.

All callbacks are called on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

import psutil
from pydantic import ValidationError

from ekiben.contract.parent import adopt_orphans
from ekiben.errors import LOG_ENDS
from ekiben.fleet.processes.berths import Berth
from ekiben.fleet.processes.last_words import last_words
from ekiben.runtime.process.footprint import children, descendants, host_bytes
from ekiben.runtime.process.gpu_memory import held_on
from ekiben.runtime.protocol import GO, SLEEP, WAKE, Report

logger = logging.getLogger(__name__)

_ROUND_S: Final = 30.0


class ReplicaProcess:
    """Listens to the process's reports and for its end.

    It is there before its process is: `attach` tells which one it is. Until then a wish to end it calls
    `on_early_end`, which must lead to `attach` or to `never_started`.
    """

    def __init__(
        self,
        berth: Berth,
        *,
        device: str,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
        on_early_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.pid: int | None = None
        self.address = berth.address
        self._device = device
        self._berth = berth
        self._on_report = on_report
        self._on_exit = on_exit
        self._on_early_end = on_early_end
        self._ended = False
        self._asked_to_end = False
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(berth.channel, self._read_reports)

    def attach(self, pid: int, *, wait: Callable[[], int]) -> None:
        """`wait` reaps the ended process and gives the return code as `subprocess` does."""
        self.pid = pid
        self._wait = wait
        self._berth.hand_over()
        self._berth.note_process(pid)
        self._pid_fd = os.pidfd_open(pid)
        self._loop.add_reader(self._pid_fd, self._reap)

    def never_started(self, reason: str) -> None:
        """There will be no process: `on_exit` is called with the reason."""
        self.abandon()
        self._on_exit(reason)

    def abandon(self) -> None:
        """There will be no process, and nobody need be told."""
        self._berth.hand_over()
        self._clear()

    def go(self) -> None:
        self._say(GO)

    def sleep(self) -> None:
        self._say(SLEEP)

    def wake(self) -> None:
        self._say(WAKE)

    def _say(self, word: bytes) -> None:
        try:
            self._berth.channel.send(word)
        except OSError as error:
            logger.warning(
                "replica %s cannot be told to %s: %s", self._berth.replica_id, word.decode().strip(), error
            )

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        return None if self.pid is None or self._ended else host_bytes(self.pid)

    def memory(self) -> dict[str, int] | None:
        return None if self.pid is None or self._ended else memory_of(self.pid, self._device)

    def _signal(self, number: signal.Signals) -> None:
        if self._ended:
            return
        if self.pid is None:
            self._on_early_end()
            return
        self._asked_to_end = True
        # The session, so that what the engine started goes too. Not reaped yet: the id is still ours.
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # so young that it has no session of its own yet
            os.kill(self.pid, number)

    def _read_reports(self) -> None:
        try:
            data = self._berth.channel.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended without having read everything
            data = b""
        if not data:
            self._loop.remove_reader(self._berth.channel)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                report = Report.model_validate_json(line)
            except ValidationError:
                logger.warning("replica %s sent a report that cannot be read: %r", self.pid, line[:200])
                continue
            self._on_report(report)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        code = self._wait()
        self._read_reports()  # what it said last may still lie there
        self._clear()
        self._on_exit(self._describe_end(code))

    def _describe_end(self, code: int) -> str:
        words = last_words(self._berth.log, since_byte=self._berth.log_begin)
        if self._asked_to_end or not words:
            return describe_exit(code)
        return f"{describe_exit(code)}{LOG_ENDS}{words}"

    def _clear(self) -> None:
        self._ended = True
        self._loop.remove_reader(self._berth.channel)
        self._berth.channel.close()
        self._berth.clear()


class Orphans:
    """Children that came to this process because their parents died: they are waited for, when ended.

    A child that somebody here waits for is never ended for long, so what is found ended twice is nobody's.
    """

    def __init__(self) -> None:
        """Make this process the one to which orphans come. Raises OSError where the system cannot."""
        adopt_orphans()
        self._ended_before: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_ROUND_S, self._go_round)

    def close(self) -> None:
        self._timer.cancel()
        adopt_orphans(False)

    def _go_round(self) -> None:
        ended = set(filter(_is_zombie, child_pids()))
        for pid in ended & self._ended_before:
            os.waitpid(pid, os.WNOHANG)
        self._ended_before = ended
        self._timer = self._loop.call_later(_ROUND_S, self._go_round)


def memory_of(pid: int, device: str) -> dict[str, int] | None:
    """What a process and all that it started hold of the host and of a device; None when it is gone."""
    if (host := host_bytes(pid)) is None:
        return None
    return {"cpu": host} | held_on(device, {pid, *descendants(pid)})


def child_pids() -> list[int]:
    """Of this process."""
    return children(os.getpid())


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def wait_for_child(pid: int) -> int:
    """Reap an ended child; its return code as `subprocess` gives it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def end_child(pid: int) -> None:
    """Kill and reap a child; nothing, when it was reaped before: the id may be another's by now."""
    if pid in child_pids():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def describe_exit(code: int) -> str:
    """A return code of `subprocess`, in words."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = ", as it does when memory runs out" if -code == signal.SIGKILL else ""
    return f"the process was ended by signal {name}{hint}"
