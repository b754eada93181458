"""What is told of models and replicas, put together from the core's state and the processes' facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ekiben.contract.model import ModelSpec
from ekiben.fleet.core import FleetCore
from ekiben.fleet.launcher import Plan, Process
from ekiben.fleet.model_state import ModelState
from ekiben.fleet.types import ModelStatus, ReplicaStatus, State

STAGE_WORDS = {
    State.COLD: "not loaded",
    State.QUEUED: "waiting to start",
    State.FETCHING: "fetching weights",
    State.STARTING: "starting",
    State.LOADING: "loading",
    State.READY: "ready",
    State.DRAINING: "letting requests end",
    State.FAILED: "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """What only the supervisor knows of a replica."""

    process: Process
    plan: Plan
    started_at: datetime


def model_status(
    spec: ModelSpec, core: FleetCore, facts: Mapping[str, ReplicaFacts], *, now: float
) -> ModelStatus:
    """The whole status of one model."""
    model = core.models.get(spec.name)
    if model is None:
        return _cold(spec)
    replica = replica_status(model, facts)
    failed = model.state is State.FAILED and model.failure is not None
    return ModelStatus(
        name=spec.name,
        family=spec.family.value,
        state=model.state,
        stage=STAGE_WORDS[model.state],
        progress=model.progress,
        eta_s=model.eta_s,
        in_flight=len(model.replica.leases) if model.replica else 0,
        waiting=len(model.waiting),
        memory_bytes=replica.memory_bytes if replica else None,
        unloads_in_s=core.unloads_in_s(model, now),
        error=model.failure.error.message if failed and model.failure else None,
        retry_in_s=max(0.0, model.failure.retry_at - now) if failed and model.failure else None,
        replicas=(replica,) if replica else (),
    )


def replica_status(model: ModelState, facts: Mapping[str, ReplicaFacts]) -> ReplicaStatus | None:
    """The model's replica, if it has a process."""
    replica = model.replica
    known = facts.get(replica.id) if replica is not None else None
    if replica is None or known is None:
        return None
    return ReplicaStatus(
        id=replica.id,
        model=model.name,
        state=replica.state,
        pid=known.process.pid,
        engine=known.plan.model.variants[known.plan.variant].engine,
        address=str(known.process.address),
        in_flight=len(replica.leases),
        memory_bytes=known.process.memory_bytes() or replica.memory_bytes,
        started_at=known.started_at.isoformat(timespec="seconds"),
        stages_s={stage: round(seconds, 3) for stage, seconds in model.stages_s.items()},
    )


def _cold(spec: ModelSpec) -> ModelStatus:
    return ModelStatus(
        name=spec.name,
        family=spec.family.value,
        state=State.COLD,
        stage=STAGE_WORDS[State.COLD],
        progress=None,
        eta_s=None,
        in_flight=0,
        waiting=0,
        memory_bytes=None,
        unloads_in_s=None,
        error=None,
        retry_in_s=None,
    )
