"""Replicas that are forked from a zygote of their engine, and spawned where that cannot be.

The first start of an engine waits for its zygote, which imports what the replica would have imported.
A zygote that fails is told of once, and tried again after a pause that grows; until then replicas are
spawned.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from ekiben.fleet.processes.adoption import Adopted, adopt
from ekiben.fleet.processes.berths import Berth, Berths, Plan, open_log
from ekiben.fleet.processes.children import Orphans, ReplicaProcess, wait_for_child
from ekiben.fleet.processes.launcher import InterpreterOf, Process, always_ours, spawn
from ekiben.fleet.processes.zygote import Zygote, ZygoteFailed
from ekiben.fleet.types import ZygoteStatus
from ekiben.plugins.environments import Interpreter
from ekiben.runtime.protocol import Report

logger = logging.getLogger(__name__)

IDLE_S: Final = 30 * 60.0
"""A zygote whose engine was not started for so long is stopped."""
GIVEN_UP_S: Final = 60.0
"""A zygote that was stopped because its memory was wanted is not started again for so long."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0

Key: TypeAlias = tuple[str, Path]
"""The engine, and the folder of the family's Bento."""


class ForkLauncher:
    """Implements `Launcher`. Raises OSError where orphans cannot be adopted: spawn there."""

    def __init__(
        self,
        *,
        berths: Berths,
        environment: Mapping[str, str],
        log_folder: Path,
        interpreter_of: InterpreterOf = always_ours,
        idle_s: float = IDLE_S,
    ) -> None:
        self._berths = berths
        self._interpreter_of = interpreter_of
        self._environment = environment
        self._logs = log_folder
        self._idle_s = idle_s
        self._orphans = Orphans()
        self._seats: dict[Key, _Seat] = {}
        self._starts: set[asyncio.Task[None]] = set()

    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        go: bool,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        def give_up() -> None:
            start.cancel()

        berth = self._berths.prepare(replica_id, plan, go=go)
        process = ReplicaProcess(
            berth, device=plan.device, on_report=on_report, on_exit=on_exit, on_early_end=give_up
        )
        start = asyncio.create_task(self._start(process, berth, plan), name=f"start {replica_id}")
        self._starts.add(start)
        start.add_done_callback(partial(self._started, process))
        return process

    async def adopt(
        self, *, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
    ) -> Sequence[Adopted]:
        return await adopt(self._berths.leftovers(), wanted=wanted, on_exit=on_exit)

    def zygotes(self) -> Sequence[ZygoteStatus]:
        """Those that are there."""
        living = [seat.zygote for seat in self._seats.values() if seat.zygote is not None]
        return [
            ZygoteStatus(engine=z.engine, pid=z.pid, warm=z.is_warm, memory_bytes=z.memory_bytes())
            for z in living
        ]

    def stop_zygote(self, engine: str) -> None:
        for (name, _), seat in self._seats.items():
            if name == engine:
                seat.clear()
                seat.rest_from(GIVEN_UP_S)

    def close(self) -> None:
        for seat in self._seats.values():
            seat.clear()
        self._orphans.close()
        self._berths.close()

    async def _start(self, process: ReplicaProcess, berth: Berth, plan: Plan) -> None:
        interpreter = self._interpreter_of(plan.engine)
        seat = self._seat((plan.engine, plan.bento))
        try:
            zygote = seat.take(interpreter)
            pid = await zygote.fork(berth)
        except ZygoteFailed:  # of which the seat has told
            spawn(process, berth, interpreter=interpreter, environment=self._environment)
            return
        seat.worked()
        process.attach(pid, wait=partial(wait_for_child, pid))
        logger.info(
            "model %s: replica %s is process %d, forked from %d",
            berth.model,
            berth.replica_id,
            pid,
            zygote.pid,
        )

    def _started(self, process: ReplicaProcess, start: asyncio.Task[None]) -> None:
        self._starts.discard(start)
        if start.cancelled():
            process.never_started("it was stopped before it had a process")
        elif (error := start.exception()) is not None:
            process.never_started(f"no process can be started: {error}")

    def _seat(self, key: Key) -> _Seat:
        if key not in self._seats:
            engine, bento = key
            folder = self._berths.folder / f"zygote-{len(self._seats)}"
            log = self._logs / "zygotes" / f"{engine}.log"
            self._seats[key] = _Seat(
                engine, bento, folder=folder, log=log, environment=self._environment, idle_s=self._idle_s
            )
        return self._seats[key]


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Changes when distributions are installed or removed, here or where the engine lives."""

    interpreter: Interpreter
    times_ns: tuple[int, ...]

    @classmethod
    def now(cls, interpreter: Interpreter) -> _Stamp:
        folders = {Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
        times = (folder.stat().st_mtime_ns for folder in sorted(folders) if folder.is_dir())
        return cls(interpreter, tuple(times))


class _Seat:
    """The place of one zygote at a time, and what is remembered from one to the next."""

    def __init__(
        self,
        engine: str,
        bento: Path,
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        idle_s: float,
    ) -> None:
        self.zygote: Zygote | None = None
        self._engine = engine
        self._bento = bento
        self._folder = folder
        self._log = log
        self._environment = environment
        self._idle_s = idle_s
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._stamp: _Stamp | None = None
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None

    def take(self, interpreter: Interpreter) -> Zygote:
        """The zygote, or a new one. Raises ZygoteFailed while the last failure is too fresh."""
        stamp = _Stamp.now(interpreter)
        if self.zygote is not None and self._stamp != stamp:
            logger.info("the zygote of engine %s is replaced: what is installed has changed", self._engine)
            self.clear()
        if self.zygote is None:
            if self._loop.time() < self._not_before:
                raise ZygoteFailed("there was one a moment ago")
            self._stamp = stamp
            self.zygote = self._begin(interpreter)
        self._rest()
        return self.zygote

    def worked(self) -> None:
        """Forget about failures."""
        self._pause_s = FIRST_PAUSE_S

    def rest_from(self, seconds: float) -> None:
        """There is to be no new one for so long."""
        self._not_before = max(self._not_before, self._loop.time() + seconds)

    def clear(self) -> None:
        """Stop the zygote, if there is one."""
        if self._idle is not None:
            self._idle.cancel()
        if self.zygote is not None:
            self.zygote.stop()
            self.zygote = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, interpreter: Interpreter) -> Zygote:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._log.parent.mkdir(mode=0o700, exist_ok=True)
            log_fd = open_log(self._log)
            try:
                return Zygote(
                    self._engine,
                    bento=self._bento,
                    folder=self._folder,
                    log_fd=log_fd,
                    interpreter=interpreter,
                    environment=self._environment,
                    on_end=self._ended,
                )
            finally:
                os.close(log_fd)
        except OSError as error:
            self._ended(str(error))
            raise ZygoteFailed(str(error)) from None

    def _ended(self, reason: str) -> None:
        self.clear()
        logger.warning(
            "the zygote of engine %s failed (%s): replicas are spawned for %g s, which takes longer; see %s",
            self._engine,
            reason,
            self._pause_s,
            self._log,
        )
        self._not_before = self._loop.time() + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)

    def _rest(self) -> None:
        """Begin the time anew after which it is stopped."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(self._idle_s, self._retire)

    def _retire(self) -> None:
        logger.info("the zygote of engine %s is stopped: unused for %g s", self._engine, self._idle_s)
        self.clear()
