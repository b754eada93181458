"""The words of the fleet: states, what the gateway gets, and the one interface between the two.

The gateway knows `FleetPort` and nothing else of the fleet, so that the two can be apart: today they
share a process, later a socket may lie between them. Nothing here assumes that a replica is local.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Prefix: TypeAlias = Callable[[], Sequence[int]]


class State(StrEnum):
    """Of a model and of a replica; the same words in the API, the metrics and the command line."""

    COLD = "cold"
    QUEUED = "queued"
    FETCHING = "fetching"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    SLEPT = "slept"
    """Its process is there and holds nothing of its device: waking is quicker than a cold start."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica listens: `unix` with a path, or `tcp` with host:port."""

    scheme: str
    location: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.location}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to send one request to one replica. Give it back with `release`, always."""

    id: int
    model: str
    """The catalog's name, also when the client used an alias."""
    replica_id: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a model fits into memory beside what is there, and who would go for it."""

    model: str
    fits: str
    """`loaded`, `now`, `after evictions`, `later` (others are loading), `never`, or `unknown` as long as
    its need is."""
    device: str | None
    """Where it would run."""
    need: Mapping[str, int] | None
    """Bytes by device."""
    free: Mapping[str, int]
    budgets: Mapping[str, int]
    would_go: tuple[str, ...] = ()
    """Models that would be unloaded, the least worthy first; zygotes as `zygote ENGINE`."""
    reason: str | None = None
    """Why it can never fit, or is not known to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a model is on its way to ready; what is not known is left out, never guessed."""

    state: State
    stage: str
    """The state, in words for a person: `fetching weights`, `loading`."""
    progress: float | None = None
    """0 to 1, of the stage."""
    eta_s: float | None = None
    """Until it is ready."""
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """How long each stage of the start took, and the one under way so far."""

    def as_detail(self) -> dict[str, Any]:
        """For the body of a 503."""
        return {
            "state": self.state.value,
            "stage": self.stage,
            "progress": self.progress,
            "eta_s": self.eta_s,
            "stages_s": {stage: round(seconds, 3) for stage, seconds in self.stages_s.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkStatus:
    """How far a request has come that takes long."""

    request: str
    """Its id, as in `x-request-id`."""
    replica: str
    route: str
    done: float
    total: float | None
    """None: not known."""
    unit: str
    """What is counted: `steps` of pictures, `seconds` of a recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    id: str
    model: str
    state: State
    pid: int | None
    engine: str
    address: str
    device: str
    in_flight: int
    memory_bytes: int | None
    """On all devices together."""
    started_at: str
    """ISO 8601, UTC."""
    stages_s: dict[str, float] = field(default_factory=dict)
    """How long each stage of its start took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    name: str
    family: str
    state: State
    stage: str
    progress: float | None
    eta_s: float | None
    in_flight: int
    waiting: int
    memory_bytes: int | None
    unloads_in_s: float | None
    """None: not loaded, busy, or never."""
    error: str | None
    """Why it is `failed`."""
    retry_in_s: float | None
    """When a request would try again."""
    replicas: Sequence[ReplicaStatus] = ()
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Of the start under way: how long each stage took, the last one so far."""
    work: Sequence[WorkStatus] = ()
    """Of the requests that its replicas tell about, since they take long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZygoteStatus:
    """A warm process from which an engine's replicas are forked."""

    engine: str
    pid: int
    warm: bool
    """False while it imports."""
    memory_bytes: int | None
    """Resident; its replicas share most of it."""


class FleetPort(Protocol):
    """What the gateway, and whoever serves `/api`, may ask of the fleet."""

    async def acquire(
        self, model: str, *, wait_s: float | None = None, prefix: Prefix | None = None, idle: bool = False
    ) -> Lease:
        """A lease on a ready replica of a catalogued model (by name or alias).

        Waits while the model is brought up, at most `wait_s` (None: the platform's budget), then raises
        ModelNotReady; the load goes on. Raises ModelNotFound, EngineNotInstalled, FetchFailed, LoadFailed,
        QueueFull, InsufficientMemory or ShuttingDown at once when they are certain. Cancelling withdraws
        the request. `prefix` gives hashes of the conversation's growing beginnings, shortest first, and
        is called only where there is a choice between replicas. `idle`: it is for work that nobody waits
        for; it is granted while nobody else waits for the model or for memory, and harms nobody.
        """

    def first_byte(self, lease: Lease) -> None:
        """The replica began to answer. Cheap, and harmless to call again."""

    def release(self, lease: Lease, *, died: bool = False) -> None:
        """Give a lease back; twice is harmless. `died`: the replica broke off, so look at it at once."""

    def progress(self, model: str) -> Progress:
        """How far the model is, for heartbeats. Advisory; raises ModelNotFound."""

    def status(self, model: str) -> ModelStatus:
        """One model, by name or alias. Advisory; raises ModelNotFound."""

    def snapshot(self) -> Sequence[ModelStatus]:
        """All models of the catalog, by name. Advisory."""

    def zygotes(self) -> Sequence[ZygoteStatus]:
        """The warm processes that wait to be forked. Advisory."""

    async def load(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        """Bring a model up without a request; as `acquire`, but leaves no lease. `wait_s=0`: do not wait."""

    async def pull(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        """Bring a model's weights to this machine and no more. `wait_s=0`: do not wait."""

    async def stop(self, model: str) -> ModelStatus:
        """Let its requests end, then unload it. Returns when it is cold. Idempotent."""

    async def forget(self, model: str) -> None:
        """Stop a model and drop its state: it is leaving the catalog."""

    def replaced(self, model: str) -> None:
        """The catalog has a new spec for a model: what runs goes once a replica of the new spec is ready,
        and no request fails for it. Returns at once."""

    def memory(self) -> Mapping[str, tuple[int | None, int]]:
        """By device: the budget, None without one, and what is held of it. Advisory."""

    async def fit(self, model: str) -> Fit:
        """Whether it fits now, and who would go. Advisory; raises ModelNotFound.

        Takes a second for a model that was never started: its engine is asked what it would take."""

    def changed(self, model: str) -> None:
        """Tell the readers of `events` that something outside the fleet changed a model."""

    def log_path(self, model: str) -> Path:
        """Where the model's replicas write. The file may not exist yet. Raises ModelNotFound."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """First `{"type": "snapshot", "seq": n, "models": […]}`, then one of
        `{"type": "model", "seq": n, "model": {…}}` for each change, and
        `{"type": "removed", "seq": n, "model": {"name": …}}` when one leaves the catalog.

        A reader that does not keep up loses intermediate states, never the last one.
        """
