"""What happens to the fleet, and what the fleet wants done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ekiben.errors import EkibenError
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
    keep_alive_s: float


@dataclass(frozen=True, slots=True)
class Withdraw:
    ticket: int


@dataclass(frozen=True, slots=True)
class Release:
    """The ticket's lease is given back. `died`: its replica broke off, and may be at its end."""

    ticket: int
    died: bool = False


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


@dataclass(frozen=True, slots=True)
class Reported:
    replica_id: str
    report: Report


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone and reaped."""

    replica_id: str
    reason: str


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
    Arrive | Withdraw | Release | Preparing | Prepared | Reported | Exited | Stop | Forget | Tick | Shutdown
)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Choose a variant and bring its weights; ends in Prepared."""

    model: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process for the replica; ends in Exited, sooner or later."""

    model: str
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
class Grant:
    """The ticket has what it wanted; `replica_id` with a lease."""

    ticket: int
    replica_id: str | None


@dataclass(frozen=True, slots=True)
class Fail:
    ticket: int
    error: EkibenError


@dataclass(frozen=True, slots=True)
class Changed:
    """The model's status is worth telling."""

    model: str


Effect: TypeAlias = Prepare | Launch | Terminate | Kill | Grant | Fail | Changed
