"""The state that the core keeps of a model and of its replica."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ekiben.errors import EkibenError, EngineError
from ekiben.fleet.events import Want
from ekiben.fleet.types import State


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a model could not be brought up, and when a request may try again."""

    error: EkibenError
    retry_at: float

    def as_error(self, now: float) -> EkibenError:
        """A fresh error of the same kind, with what is left of the pause."""
        error = type(self.error)(self.error.message)
        if isinstance(error, EngineError) and error.retryable is not False:
            error.retry_after_s = max(0.0, self.retry_at - now)
        return error


@dataclass(slots=True)
class Replica:
    """One process. All times are on the clock of the events; infinity: not set."""

    id: str
    since: float
    """When it entered its state."""
    state: State = State.STARTING
    leases: set[int] = field(default_factory=set)
    idle_since: float = 0.0
    ready_at: float = 0.0
    served: bool = False
    suspect_until: float = -math.inf
    """Until then it gets no new requests: a process that broke off is usually at its end."""
    terminated: bool = False
    start_by: float = math.inf
    drain_by: float = math.inf
    kill_at: float = math.inf
    memory_bytes: int | None = None
    last_words: str | None = None


@dataclass(slots=True)
class ModelState:
    """One model of the catalog."""

    name: str
    keep_alive_s: float = math.inf
    state: State = State.COLD
    since: float = 0.0
    """When the start under way, or the last one, was asked for."""
    progress: float | None = None
    eta_s: float | None = None
    waiting: dict[int, Want] = field(default_factory=dict)
    """Tickets in order of arrival."""
    wanted: bool = False
    """Somebody asked for a replica, even if they have gone."""
    preparing: bool = False
    replica: Replica | None = None
    failure: Failure | None = None
    failures: int = 0
    """Failed starts in a row."""
    strikes: int = 0
    """Deaths in a row of replicas that were ready."""
    stages_s: dict[str, float] = field(default_factory=dict)
    """How long each stage of the last start took."""
