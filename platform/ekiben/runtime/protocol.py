"""What the fleet tells a replica, and what the replica reports back.

The fleet writes an order to a file and starts `python -m ekiben.runtime.replica FILE`, or asks a zygote
for a fork of it; the replica writes reports, one JSON object a line, to the socket whose file descriptor
the order names, and waits on it for the word to load. Both sides import this module, which is why it
imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ekiben import __version__
from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import ModelSpec

ORDER_FILE: Final = "order.json"
"""In the replica's folder."""
GO: Final = b"go\n"
"""The word to a replica that waits with its load."""
SLEEP: Final = b"sleep\n"
"""The word to a ready replica that can sleep: give the device back, and report `slept`."""
WAKE: Final = b"wake\n"
"""The word to a slept replica: take the device again, and report `ready`."""
ADOPT_PATH: Final = "/-/adopt"
"""On the replica's socket: `POST /-/adopt?pid=123` makes process 123 its platform. 204, or else 4xx."""

HANDOFF_SOCKET: Final = "handoff.sock"
"""Beside the replica's own socket: takes the connections of clients, each with a `Passed`."""
HANDOFF_HEADER: Final = b"x-ekiben-handoff"
"""The gateway's name for an answer during which the connection of its client may come. Told once only."""


PASSED_BYTES: Final = 64
"""No `Passed` is longer."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What comes with the connection of a client, in one datagram."""

    token: bytes
    """As in `HANDOFF_HEADER`."""
    size_bytes: int
    """So much of the answer's body is with the client."""

    @classmethod
    def parse(cls, data: bytes) -> Passed:
        """Raises ValueError."""
        token, size = data.split(b" ")
        return cls(token, int(size))

    def __bytes__(self) -> bytes:
        return b"%b %d" % (self.token, self.size_bytes)


class Stage(StrEnum):
    """Where a replica is on its way; `starting` is everything before the engine's load begins."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    SLEPT = "slept"
    """It holds nothing of its device, and answers nobody until it is woken."""
    FAILED = "failed"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Order(_Message):
    """One replica to be."""

    replica_id: str
    model: ModelSpec
    variant: int
    """Index into `model.variants`."""
    weights: Path
    companions: dict[str, Path] = Field(default_factory=dict)
    adapters: dict[str, Path] = Field(default_factory=dict)
    device: str = "cpu"
    """`cpu`, `cuda:1` and the like, or several as in `cuda:0+cuda:1`, as the platform counts them; the
    replica sees no other."""
    threads: int
    folder: Path
    """The replica's own folder, mode 0700: socket, scratch, metrics; removed by the fleet afterwards."""
    cache: Path | None = None
    """The model's folder for what is to outlive its replicas; the engine makes it when it has something."""
    socket: Path
    """Unix socket to serve on."""
    bento: Path
    """Folder of the family's Bento."""
    go: bool = True
    """Load at once; otherwise say what the load will take, and wait for the word."""
    report_fd: int
    parent_pid: int
    """The platform. Until it is ready, the replica ends when this process does."""
    orphan_s: float = 0.0
    """How long a ready replica without a platform waits to be adopted by the next; 0: it ends at once."""
    version: str = __version__
    """Of the platform: replicas serve no other."""
    ordered_s: float = Field(default_factory=SYSTEM_CLOCK.monotonic)
    """When it was written, on the clock that all processes of a machine share."""


class Work(_Message):
    """How far a request has come that takes long."""

    request: str
    """Its id, as in `x-request-id`."""
    route: str
    done: float
    total: float | None = None
    """None: not known."""
    unit: str
    """What is counted: `steps` of pictures, `seconds` of a recording."""


class Report(_Message):
    """One line of news from a replica."""

    stage: Stage
    progress: float | None = None
    """0 to 1, of the load."""
    memory_bytes: int | None = None
    """Of host and device together."""
    host_bytes: int | None = None
    """With `starting` or `loading`: what the process will hold once it is loaded, as its engine estimates.
    With `ready`: what it holds, and all that it started."""
    device_bytes: int | None = None
    """The same of its GPU, or of each of its GPUs; None on the CPU, and where it cannot be told."""
    sleeps: bool = False
    """With `ready` and `slept`: it can be put to sleep."""
    error: str | None = None
    """With `failed`: why, in one sentence."""
    out_of_memory: bool = False
    """With `failed`: there was not enough memory, so less of it may do."""
    detail: dict[str, Any] | None = None
    work: tuple[Work, ...] | None = None
    """All long work that is under way in a ready replica. A report that has it tells nothing else."""


class ForkRequest(_Message):
    """To a zygote, with two file descriptors: the replica's end of its report pipe, and its log."""

    order: Path


class ZygoteNews(_Message):
    """From a zygote: first of itself, then one answer to each request, in their order.

    Neither `pid` nor `error`: it is warm.
    """

    pid: int | None = None
    """The replica, a child of the platform by now."""
    error: str | None = None
    """Why there is none, or why the zygote cannot be one."""
