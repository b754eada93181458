"""Replicas that outlived their platform: those that can serve on are taken over, the rest is ended.

A replica is taken over when it is the process that was noted, its platform was of this version, somebody
wants its model as it is, its weights are those that it has loaded, and it answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from ekiben.fleet.call import call
from ekiben.fleet.processes.berths import Leftover, Plan, birth, plan_of
from ekiben.fleet.processes.children import memory_of
from ekiben.fleet.types import Address
from ekiben.runtime.process.footprint import host_bytes
from ekiben.runtime.protocol import ADOPT_PATH, ORDER_FILE, Order

logger = logging.getLogger(__name__)

ANSWER_S: Final = 2.0
"""A replica that does not answer in that time is not worth waiting for."""
END_S: Final = 2.0
"""For the kernel to end a process and free its memory."""
_NO_CONTENT: Final = 204


class AdoptedProcess:
    """Implements `Process` for one that is nobody's child here, so its exit code is not known."""

    def __init__(self, leftover: Leftover, order: Order, pid: int, pid_fd: int) -> None:
        self.pid: int | None = pid
        self.address = Address("unix", str(order.socket))
        self._folder = leftover.folder
        self._device = order.device
        self._id = pid
        self._pid_fd = pid_fd
        self._ended = False
        self._loop = asyncio.get_running_loop()

    def begin(self, on_exit: Callable[[str], None]) -> None:
        """Call `on_exit` once it has ended."""
        self._loop.add_reader(self._pid_fd, self._end, on_exit)

    def go(self) -> None:
        """It has loaded long ago."""

    def sleep(self) -> None:
        """It does not listen any more."""

    def wake(self) -> None:
        """It never sleeps."""

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        return None if self._ended else host_bytes(self._id)

    def memory(self) -> dict[str, int] | None:
        return None if self._ended else memory_of(self._id, self._device)

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended:
            signal_group(self._id, self._pid_fd, number)

    def _end(self, on_exit: Callable[[str], None]) -> None:
        self._ended = True
        self._loop.remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        shutil.rmtree(self._folder, ignore_errors=True)
        on_exit("the process ended; an earlier platform had started it, so its exit code is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A ready replica of an earlier platform, this one's from now on."""

    replica_id: str
    """The one that the earlier platform gave it."""
    plan: Plan
    process: AdoptedProcess
    memory: dict[str, int]
    started_at: datetime


async def adopt(
    leftovers: Iterable[Leftover], *, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
) -> list[Adopted]:
    """Take over what can be, end the rest. Takes about as long as one answer, however many there are.

    `on_exit` is called with the replica's id and a reason once for each that was adopted.
    """
    taken = await asyncio.gather(*(_take(leftover, wanted, on_exit) for leftover in leftovers))
    return [adopted for adopted in taken if adopted is not None]


async def _take(
    leftover: Leftover, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
) -> Adopted | None:
    pid_fd = _hold(leftover)
    if leftover.pid is None or pid_fd is None:
        shutil.rmtree(leftover.folder, ignore_errors=True)
        return None
    order = leftover.order
    if order is None or not _serves_on(leftover.folder, plan_of(order), wanted):
        await _reap(leftover, leftover.pid, pid_fd)
        return None
    process = AdoptedProcess(leftover, order, leftover.pid, pid_fd)
    memory = await _ask(process)
    if memory is None:
        await _reap(leftover, leftover.pid, pid_fd)
        return None
    process.begin(partial(on_exit, order.replica_id))
    logger.info("model %s: adopted replica %s, process %d", order.model.name, order.replica_id, leftover.pid)
    return Adopted(
        replica_id=order.replica_id,
        plan=plan_of(order),
        process=process,
        memory=memory,
        started_at=datetime.fromtimestamp((leftover.folder / ORDER_FILE).stat().st_mtime, UTC),
    )


async def _ask(process: AdoptedProcess) -> dict[str, int] | None:
    """What it holds, once it has agreed; None when it did not."""
    try:
        async with asyncio.timeout(ANSWER_S):
            status = await call(process.address, "POST", f"{ADOPT_PATH}?pid={os.getpid()}")
    except TimeoutError:
        return None
    return await asyncio.to_thread(process.memory) if status == _NO_CONTENT else None


def _hold(leftover: Leftover) -> int | None:
    """A file descriptor of the very process that was noted; None when it is gone."""
    if leftover.pid is None:
        return None
    try:
        pid_fd = os.pidfd_open(leftover.pid)
    except OSError:
        return None
    if birth(leftover.pid) == leftover.born:
        return pid_fd
    os.close(pid_fd)
    return None


def _serves_on(folder: Path, plan: Plan, wanted: Callable[[Plan], bool]) -> bool:
    try:
        return wanted(plan) and _changed_ns(plan.files) <= (folder / ORDER_FILE).stat().st_mtime_ns
    except OSError:  # weights that are gone
        return False


def _changed_ns(places: Iterable[Path]) -> int:
    """When the newest of the files was put there."""
    files: list[Path] = []
    for place in places:
        files += [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    return max((path.stat().st_ctime_ns for path in files), default=0)


async def _reap(leftover: Leftover, pid: int, pid_fd: int) -> None:
    """End the process and what it started; returns when it is gone."""
    logger.warning("ending process %d that an earlier platform left behind", pid)
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pid_fd, gone.set)
    try:
        signal_group(pid, pid_fd, signal.SIGKILL)
        async with asyncio.timeout(END_S):
            await gone.wait()
    except TimeoutError:
        logger.warning("process %d does not end", pid)
    finally:
        loop.remove_reader(pid_fd)
        os.close(pid_fd)
    shutil.rmtree(leftover.folder, ignore_errors=True)


def signal_group(pid: int, pid_fd: int, number: signal.Signals) -> None:
    """To the session of a process, so that what its engine started hears it too; nothing when it is gone."""
    try:
        signal.pidfd_send_signal(pid_fd, 0)  # no child of ours: its id may be another's by now
        os.killpg(pid, number)
    except ProcessLookupError:
        return
