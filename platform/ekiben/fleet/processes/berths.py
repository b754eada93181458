"""What a replica's process is given before there is one: a folder, its order, a log, a line to it.

Owns what lies on disk for replicas, and knows nothing of how their processes are made.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket as Socket
from socket import socketpair
from typing import Final

from pydantic import ValidationError

from ekiben import __version__
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
FOLDER_NOTE: Final = "replicas-folder"
"""Where the folders of replicas are, when the home's path is too long for sockets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a replica of a model is to run, with everything decided and everything there."""

    model: ModelSpec
    variant: int
    weights: Path
    bento: Path
    device: str
    threads: int
    companions: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        return self.model.variants[self.variant].engine

    @property
    def files(self) -> list[Path]:
        """All files and folders that a replica loads."""
        return [self.weights, *self.companions.values(), *self.adapters.values()]


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
    log: Path
    log_begin: int
    """How many bytes of it are of earlier processes."""

    @property
    def order_path(self) -> Path:
        return self.folder / ORDER_FILE

    @property
    def address(self) -> Address:
        return Address("unix", str(self.socket))

    def note_process(self, pid: int) -> None:
        """For a later platform, should the process outlive this one."""
        if (born := birth(pid)) is not None:
            (self.folder / PROCESS_FILE).write_text(f"{pid} {born}", encoding="utf-8")

    def hand_over(self) -> None:
        """Close the ends that are the process's, once it has them."""
        os.close(self.report_fd)
        os.close(self.log_fd)

    def clear(self) -> None:
        """Remove what is left of the process."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an earlier platform left: the folder of a process which may be there, or not."""

    folder: Path
    order: Order | None
    """None when it cannot be read, or is one of another version."""
    pid: int | None
    """None when the process was never noted."""
    born: int | None


class Berths:
    """All places of one platform."""

    def __init__(
        self, *, run_folder: Path, log_folder: Path, cache_folder: Path | None = None, orphan_s: float = 0.0
    ) -> None:
        """`cache_folder`: for what engines keep from one replica of a model to the next. `orphan_s`: how long
        replicas wait for another platform when this one is gone."""
        self._caches = cache_folder
        self._logs = log_folder
        self._orphan_s = orphan_s
        self._note = run_folder / FOLDER_NOTE
        self.folder = self._replica_folder(run_folder)

    def prepare(self, replica_id: str, plan: Plan, *, go: bool) -> Berth:
        """Make one. Raises OSError, and leaves nothing then."""
        folder = self.folder / replica_id
        folder.mkdir(mode=0o700)
        channel, theirs = socketpair()
        channel.setblocking(False)
        try:
            order = self._order(replica_id, plan, folder, theirs.fileno(), go=go)
            (folder / ORDER_FILE).write_text(order.model_dump_json(), encoding="utf-8")
            log = log_path(self._logs, plan.model.name)
            log_fd = open_log(log)
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
            log=log,
            log_begin=os.fstat(log_fd).st_size,
        )

    def leftovers(self) -> list[Leftover]:
        """Of an earlier platform on the same home; asked before the first is prepared."""
        return [_leftover(folder) for folder in self.folder.iterdir() if folder.is_dir()]

    def close(self) -> None:
        """Remove the folder of all. Only after every process has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def _replica_folder(self, run_folder: Path) -> Path:
        folder = run_folder / "replicas"
        if len(str(folder)) > MAX_SOCKET_PATH - len("/ffff-99999/replica.sock"):
            return self._folder_elsewhere()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _folder_elsewhere(self) -> Path:
        """The one that an earlier platform noted, if it is still there and ours."""
        try:
            noted = Path(self._note.read_text(encoding="utf-8"))
            if noted.is_dir() and not noted.is_symlink() and noted.stat().st_uid == os.getuid():
                return noted
        except OSError:
            logger.debug("no folder was noted")
        folder = Path(tempfile.mkdtemp(prefix="ekiben-"))
        self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._note.write_text(str(folder), encoding="utf-8")
        return folder

    def _order(self, replica_id: str, plan: Plan, folder: Path, report_fd: int, *, go: bool) -> Order:
        return Order(
            replica_id=replica_id,
            model=plan.model,
            variant=plan.variant,
            weights=plan.weights,
            companions=dict(plan.companions),
            adapters=dict(plan.adapters),
            device=plan.device,
            threads=plan.threads,
            folder=folder,
            cache=cache_path(self._caches, plan.model.name),
            socket=folder / "replica.sock",
            bento=plan.bento,
            go=go,
            report_fd=report_fd,
            parent_pid=os.getpid(),
            orphan_s=self._orphan_s,
        )


def plan_of(order: Order) -> Plan:
    """The plan that the order was made from."""
    return Plan(
        model=order.model,
        variant=order.variant,
        weights=order.weights,
        companions=order.companions,
        adapters=order.adapters,
        bento=order.bento,
        device=order.device,
        threads=order.threads,
    )


def log_path(folder: Path, model: str) -> Path:
    """The log of a model; the name is made harmless and stays recognisable."""
    return folder / f"{_harmless(model)}.log"


def cache_path(folder: Path | None, model: str) -> Path | None:
    """What is kept of a model from one replica to the next: nobody else's."""
    if folder is None:
        return None
    return folder / f"{_harmless(model)}-{hashlib.sha256(model.encode()).hexdigest()[:12]}"


def _harmless(model: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in model)


def open_log(path: Path) -> int:
    """A file descriptor to append to."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def birth(pid: int) -> int | None:
    """When a process began, in the kernel's ticks since it booted; None when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _leftover(folder: Path) -> Leftover:
    try:
        order = Order.model_validate_json((folder / ORDER_FILE).read_bytes())
    except (OSError, ValidationError):
        order = None
    if order is not None and order.version != __version__:
        order = None
    try:
        pid, born = map(int, (folder / PROCESS_FILE).read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return Leftover(folder, order, None, None)
    return Leftover(folder, order, pid, born)
