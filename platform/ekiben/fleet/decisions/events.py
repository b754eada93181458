"""What happens to the fleet, and what the fleet wants done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ekiben.errors import EkibenError
from ekiben.fleet.decisions.ledger import HOST, Memory, Place
from ekiben.fleet.decisions.scaling import Terms
from ekiben.runtime.protocol import Report


class Want(Enum):
    """What a ticket waits for."""

    LEASE = "lease"
    LOADED = "loaded"
    """The model in memory, without a request."""
    WEIGHTS = "weights"
    """The weights on this machine."""
    COLD = "cold"
    """The model gone."""


@dataclass(frozen=True, slots=True)
class Arrive:
    """Somebody wants something of a model; answered by one Grant or Fail, unless withdrawn."""

    ticket: int
    model: str
    want: Want
    terms: Terms
    prefix: Sequence[int] = ()
    """Hashes of the conversation's growing beginnings, shortest first."""
    fresh: bool = False
    """Only a replica of the spec as it is now will do: an older one lacks what is asked for."""
    idle: bool = False
    """A lease for work that nobody waits for: it takes what nobody else wants."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    ticket: int


@dataclass(frozen=True, slots=True)
class FirstByte:
    """The ticket's replica began to answer."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Release:
    """The ticket's lease is given back. `died`: its replica broke off, and may be at its end."""

    ticket: int
    died: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """The model's terms, without a request: it is brought to the least number of replicas they name.

    `prewarm`: it is also brought up once, if that harms nobody."""

    model: str
    terms: Terms
    prewarm: bool = False


@dataclass(frozen=True, slots=True)
class Replace:
    """The model has a new spec: its replicas go once there is one of the new kind."""

    model: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Preparing:
    """The model's weights are on their way."""

    model: str
    progress: float | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Engine and weights are there, or cannot be had."""

    model: str
    error: EkibenError | None = None
    places: tuple[Place, ...] = (Place(HOST, {}),)
    engine: str = ""
    cold_cost_s: float | None = None
    """How long its starts take, as far as is known."""


@dataclass(frozen=True, slots=True)
class Reported:
    replica_id: str
    report: Report


@dataclass(frozen=True, slots=True)
class Measured:
    """What a replica, or another account, holds now."""

    account: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Silent:
    """A ready replica did not answer when asked whether it lives."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A silent replica answers again."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone and reaped. `killed`: by a SIGKILL, as when memory runs out."""

    replica_id: str
    reason: str
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """A ready replica of an earlier platform on the same home."""

    model: str
    terms: Terms
    replica_id: str
    place: Place
    engine: str


@dataclass(frozen=True, slots=True)
class SpareZygote:
    """A zygote that could be given up for memory, as a policy sees it."""

    memory: Memory
    rate: float
    """The decayed number of its forks."""
    cold_cost_s: float
    """What a start takes longer without it."""
    last_use_s: float
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Spare:
    """The zygotes that there are now, by engine."""

    zygotes: Mapping[str, SpareZygote]


@dataclass(frozen=True, slots=True)
class Budgets:
    """What may be held on each device, from now on."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class Stop:
    """Unload the model once its requests have ended; granted when it is cold."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The model left the catalog (and was stopped before)."""

    model: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Refuse what comes, let what runs end, stop every process."""


Event: TypeAlias = (
    Arrive
    | Withdraw
    | FirstByte
    | Release
    | Keep
    | Replace
    | Preparing
    | Prepared
    | Reported
    | Measured
    | Silent
    | Answered
    | Exited
    | Adopted
    | Spare
    | Budgets
    | Stop
    | Forget
    | Tick
    | Shutdown
)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Choose a variant and bring its weights; ends in Prepared."""

    model: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process for the replica; ends in Exited, sooner or later.

    `go`: it may load at once; otherwise it reports what it needs and waits for Go.
    """

    model: str
    replica_id: str
    device: str = HOST
    go: bool = True


@dataclass(frozen=True, slots=True)
class Go:
    """The replica has its memory and may load."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Have the replica give its device back and keep its process."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Have a slept replica take its device again, for which it has the memory."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the process to end."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class StopZygote:
    """Its memory is wanted."""

    engine: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket has what it wanted; `replica_id` with a lease."""

    ticket: int
    replica_id: str | None


@dataclass(frozen=True, slots=True)
class Fail:
    ticket: int
    error: EkibenError


@dataclass(frozen=True, slots=True)
class Started:
    """A start is over, its first answer begun: what its stages took, in seconds."""

    replica_id: str
    stages_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A start came to nothing, or a model died too often; with the error's code."""

    model: str
    code: str


@dataclass(frozen=True, slots=True)
class RanOut:
    """A load failed for want of memory, with so much set aside for it."""

    model: str
    device: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class Evicted:
    """A model's replica goes so that another model fits."""

    model: str
    replica_id: str
    for_model: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The model's status is worth telling."""

    model: str


Effect: TypeAlias = (
    Prepare
    | Launch
    | Go
    | Sleep
    | Wake
    | Terminate
    | Kill
    | StopZygote
    | Grant
    | Fail
    | Started
    | StartFailed
    | RanOut
    | Evicted
    | Changed
)
