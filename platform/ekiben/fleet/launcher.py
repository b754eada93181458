"""Processes for replicas: how they are started, heard, ended and reaped.

`Launcher` is the interface; `SpawnLauncher` starts a fresh interpreter for each replica. A replica is in
its own session (so that a Ctrl-C meant for the platform does not reach it), ends when the platform ends,
and writes to its model's log. All callbacks are called on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import psutil
from pydantic import ValidationError

from ekiben.contract.model import ModelSpec
from ekiben.fleet.types import Address
from ekiben.runtime.protocol import Order, Report

logger = logging.getLogger(__name__)

MAX_LOG_BYTES = 16 * 2**20
"""A log that is larger when a replica starts is put aside; one older log is kept."""
MAX_SOCKET_PATH = 100
"""Linux takes 107 characters; engines put sockets of their own into the folder."""
ORDER_FILE = "order.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a replica of a model is to run, with everything decided and everything there."""

    model: ModelSpec
    variant: int
    weights: Path
    bento: Path
    device: str
    threads: int


class Process(Protocol):
    """A replica's process, from the fleet's side."""

    @property
    def pid(self) -> int: ...

    @property
    def address(self) -> Address:
        """Where it will listen."""

    def terminate(self) -> None:
        """Ask it to let its requests end and to go. Harmless when it is gone."""

    def kill(self) -> None:
        """End it. Harmless when it is gone."""

    def memory_bytes(self) -> int | None:
        """What is resident now; None when it is gone."""


class Launcher(Protocol):
    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        """Start a process; returns at once. `on_exit` is called exactly once, after the last report,
        with the reason in words. Raises OSError when no process can be started."""

    def close(self) -> None:
        """Remove what is left on disk. Only after every process has ended."""


class SpawnLauncher:
    """A fresh interpreter per replica: `python -m ekiben.runtime.replica ORDER`."""

    def __init__(self, *, run_folder: Path, log_folder: Path, environment: Mapping[str, str]) -> None:
        self._logs = log_folder
        self._environment = dict(environment)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = self._replica_folder(run_folder)

    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        folder = self._folder / replica_id
        folder.mkdir(mode=0o700)
        report_read, report_write = os.pipe()
        try:
            order = self._order(replica_id, plan, folder, report_write)
            path = folder / ORDER_FILE
            path.write_text(order.model_dump_json(), encoding="utf-8")
            with self._open_log(plan.model.name) as log:
                child = self._spawn(path, order, log)
        except BaseException:
            os.close(report_read)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(report_write)
        address = Address("unix", str(order.socket))
        return _SpawnedProcess(child, address, folder, report_read, on_report, on_exit)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _order(self, replica_id: str, plan: Plan, folder: Path, report_fd: int) -> Order:
        return Order(
            replica_id=replica_id,
            model=plan.model,
            variant=plan.variant,
            weights=plan.weights,
            device=plan.device,
            threads=plan.threads,
            folder=folder,
            socket=folder / "replica.sock",
            bento=plan.bento,
            report_fd=report_fd,
            parent_pid=os.getpid(),
        )

    def _spawn(self, path: Path, order: Order, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ekiben.runtime.replica", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(order.report_fd,),
            start_new_session=True,
            env=self._environment | {"EKIBEN_ORDER": str(path), "PYTHONUNBUFFERED": "1"},
        )

    def _open_log(self, model: str) -> IO[bytes]:
        path = log_path(self._logs, model)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")

    def _replica_folder(self, run_folder: Path) -> Path:
        folder = run_folder / "replicas"
        if len(str(folder)) > MAX_SOCKET_PATH - len("/r99999/replica.sock"):
            self._temporary = tempfile.TemporaryDirectory(prefix="ekiben-")
            return Path(self._temporary.name)
        reap_leftovers(folder)
        folder.mkdir(mode=0o700, parents=True)
        return folder


class _SpawnedProcess:
    """Listens to the report pipe and to the process's end, through the event loop."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        address: Address,
        folder: Path,
        report_fd: int,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self.pid = child.pid
        self.address = address
        self._child = child
        self._folder = folder
        self._report_fd = report_fd
        self._on_report = on_report
        self._on_exit = on_exit
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._pid_fd = os.pidfd_open(child.pid)
        os.set_blocking(report_fd, False)
        self._loop.add_reader(report_fd, self._read_reports)
        self._loop.add_reader(self._pid_fd, self._reap)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None

    def _signal(self, number: signal.Signals) -> None:
        # The session, so that what the engine started goes too. Not reaped yet: the id is still ours.
        if self._child.returncode is None:
            os.killpg(self.pid, number)

    def _read_reports(self) -> None:
        try:
            data = os.read(self._report_fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._report_fd)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                report = Report.model_validate_json(line)
            except ValidationError:
                logger.warning("replica %d sent a report that cannot be read: %r", self.pid, line[:200])
                continue
            self._on_report(report)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        code = self._child.wait()
        self._read_reports()  # what it said last may still lie in the pipe
        self._loop.remove_reader(self._report_fd)
        os.close(self._report_fd)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._on_exit(describe_exit(code))


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


def log_path(folder: Path, model: str) -> Path:
    """The log of a model; the name is made harmless and stays recognisable."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in model)
    return folder / f"{safe}.log"


def reap_leftovers(folder: Path) -> None:
    """End what an earlier platform left behind and remove its folders.

    Replicas end with their platform by themselves; this is for the one that could not.
    """
    for order in folder.glob(f"*/{ORDER_FILE}"):
        for process in psutil.process_iter(["pid", "cmdline"]):
            if str(order) in (process.info["cmdline"] or ()):
                logger.warning("ending replica %d that an earlier platform left behind", process.pid)
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)
