"""What a replica's process is given before there is one: a folder, its order, a log, a line to it.

Owns what lies on disk for replicas, and knows nothing of how their processes are made.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from socket import socket as Socket
from socket import socketpair
from typing import Final

import psutil

from ekiben.contract.model import ModelSpec
from ekiben.fleet.types import Address
from ekiben.runtime.protocol import ORDER_FILE, Order

logger = logging.getLogger(__name__)

MAX_LOG_BYTES: Final = 16 * 2**20
"""A log that is larger when a replica starts is put aside; one older log is kept."""
MAX_SOCKET_PATH: Final = 100
"""Linux takes 107 characters; engines put sockets of their own into the folder."""
PROCESS_FILE: Final = "process"
"""Process id and time of birth, so that an id which is somebody else's by now is told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a replica of a model is to run, with everything decided and everything there."""

    model: ModelSpec
    variant: int
    weights: Path
    bento: Path
    device: str
    threads: int

    @property
    def engine(self) -> str:
        return self.model.variants[self.variant].engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Berth:
    """The place of one process. Its file descriptors are open until they are closed here."""

    replica_id: str
    model: str
    folder: Path
    socket: Path
    channel: Socket
    """The platform's end of the line on which reports come and the word to load goes."""
    report_fd: int
    """The process's end."""
    log_fd: int

    @property
    def order_path(self) -> Path:
        return self.folder / ORDER_FILE

    @property
    def address(self) -> Address:
        return Address("unix", str(self.socket))

    def note_process(self, pid: int) -> None:
        """For a later platform, should the process outlive this one."""
        try:
            born = psutil.Process(pid).create_time()
        except psutil.Error:
            return  # it has ended already
        (self.folder / PROCESS_FILE).write_text(f"{pid} {born}", encoding="utf-8")

    def hand_over(self) -> None:
        """Close the ends that are the process's, once it has them."""
        os.close(self.report_fd)
        os.close(self.log_fd)

    def clear(self) -> None:
        """Remove what is left of the process."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Berths:
    """All places of one platform."""

    def __init__(self, *, run_folder: Path, log_folder: Path) -> None:
        self._logs = log_folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.folder = self._replica_folder(run_folder)

    def prepare(self, replica_id: str, plan: Plan, *, go: bool) -> Berth:
        """Make one. Raises OSError, and leaves nothing then."""
        folder = self.folder / replica_id
        folder.mkdir(mode=0o700)
        channel, theirs = socketpair()
        channel.setblocking(False)
        try:
            order = _order(replica_id, plan, folder, theirs.fileno(), go=go)
            (folder / ORDER_FILE).write_text(order.model_dump_json(), encoding="utf-8")
            log_fd = open_log(log_path(self._logs, plan.model.name))
        except BaseException:
            channel.close()
            theirs.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Berth(
            replica_id=replica_id,
            model=plan.model.name,
            folder=folder,
            socket=order.socket,
            channel=channel,
            report_fd=theirs.detach(),
            log_fd=log_fd,
        )

    def close(self) -> None:
        """Remove the folder of all. Only after every process has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _replica_folder(self, run_folder: Path) -> Path:
        folder = run_folder / "replicas"
        if len(str(folder)) > MAX_SOCKET_PATH - len("/r99999/replica.sock"):
            self._temporary = tempfile.TemporaryDirectory(prefix="ekiben-")
            return Path(self._temporary.name)
        reap_leftovers(folder)
        folder.mkdir(mode=0o700, parents=True)
        return folder


def _order(replica_id: str, plan: Plan, folder: Path, report_fd: int, *, go: bool) -> Order:
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
        go=go,
        report_fd=report_fd,
        parent_pid=os.getpid(),
    )


def log_path(folder: Path, model: str) -> Path:
    """The log of a model; the name is made harmless and stays recognisable."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in model)
    return folder / f"{safe}.log"


def open_log(path: Path) -> int:
    """A file descriptor to append to."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def reap_leftovers(folder: Path) -> None:
    """End what an earlier platform left behind and remove its folders.

    Replicas end with their platform by themselves; this is for the one that could not.
    """
    for note in folder.glob(f"*/{PROCESS_FILE}"):
        try:
            pid, born = note.read_text(encoding="utf-8").split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(born)) < 1:  # the clock may have been set
                logger.warning("ending process %s that an earlier platform left behind", pid)
                process.kill()
        except (OSError, ValueError, psutil.Error):
            continue  # gone, or a note that was never finished
    shutil.rmtree(folder, ignore_errors=True)
