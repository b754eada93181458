"""What is told of models and replicas, put together from the core's state and the processes' facts."""

from __future__ import annotations

from ekiben.contract.model import ModelSpec
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.state import ModelState, Replica
from ekiben.fleet.preparation import Preparations, StartBook
from ekiben.fleet.processes.roster import Roster
from ekiben.fleet.timeline import Step, Timeline
from ekiben.fleet.types import ModelStatus, ReplicaStatus, State, WorkStatus

STATE_WORDS = {
    State.COLD: "not loaded",
    State.QUEUED: "waiting to start",
    State.FETCHING: "fetching weights",
    State.STARTING: "starting",
    State.LOADING: "loading",
    State.READY: "ready",
    State.DRAINING: "letting requests end",
    State.SLEPT: "asleep",
    State.FAILED: "failed",
}
STEP_WORDS = {
    Step.QUEUED: "waiting for memory",
    Step.EVICTING: "making room",
    Step.FETCHING: "fetching weights",
    Step.STARTING: "starting",
    Step.LOADING: "loading",
}


class StatusBoard:
    """Reads, and changes nothing."""

    def __init__(
        self, core: FleetCore, roster: Roster, preparations: Preparations, starts: StartBook
    ) -> None:
        self._core = core
        self._roster = roster
        self._preparations = preparations
        self._starts = starts

    def model(self, spec: ModelSpec, now: float) -> ModelStatus:
        """The whole status of one model."""
        model = self._core.models.get(spec.name) or ModelState(spec.name)
        state = model.state
        start = None if state is State.READY else model.start
        replicas = [s for replica in model.replicas.values() if (s := self._replica(replica, now))]
        failure = model.failure if state is State.FAILED else None
        measured = [status.memory_bytes for status in replicas if status.memory_bytes is not None]
        return ModelStatus(
            name=spec.name,
            family=spec.family.value,
            state=state,
            stage=_stage(model, state, start),
            progress=_progress(model),
            eta_s=self._eta_s(model, start, now),
            in_flight=model.in_flight,
            waiting=len(model.waiting),
            memory_bytes=sum(measured) if measured else None,
            unloads_in_s=self._core.unloads_in_s(model, now),
            error=failure.error.message if failure else None,
            retry_in_s=max(0.0, failure.retry_at - now) if failure else None,
            replicas=tuple(replicas),
            stages_s={} if start is None else _rounded(start.stages_s(now)),
            work=tuple(
                WorkStatus(replica=replica_id, **work.model_dump())
                for replica_id in model.replicas
                for work in self._roster.work(replica_id)
            ),
        )

    def _replica(self, replica: Replica, now: float) -> ReplicaStatus | None:
        """None as long as it has no process."""
        facts = self._roster.facts.get(replica.id)
        if facts is None:
            return None
        return ReplicaStatus(
            id=replica.id,
            model=replica.model.name,
            state=replica.state,
            pid=facts.process.pid,
            engine=replica.engine,
            address=str(facts.process.address),
            device=replica.device,
            in_flight=replica.in_flight,
            memory_bytes=sum(replica.holds.values()) if replica.holds else None,
            started_at=facts.started_at.isoformat(timespec="seconds"),
            stages_s=_rounded(replica.timeline.stages_s(now)),
        )

    def _eta_s(self, model: ModelState, start: Timeline | None, now: float) -> float | None:
        if start is None or start.step is None:
            return None
        if start.step is Step.FETCHING:
            return model.eta_s
        plan = self._preparations.plans.get(model.name)
        return None if plan is None else self._starts.eta_s(plan, start.step.value, now - start.since)


def _stage(model: ModelState, state: State, start: Timeline | None) -> str:
    if start is None or start.step is None or model.preparing is not None:
        return STATE_WORDS[state]
    return STEP_WORDS.get(start.step, STATE_WORDS[state])


def _progress(model: ModelState) -> float | None:
    loading = [r.load_progress for r in model.replicas.values() if r.state is State.LOADING]
    return model.progress if not loading else max((p for p in loading if p is not None), default=None)


def _rounded(stages_s: dict[str, float]) -> dict[str, float]:
    return {stage: round(seconds, 3) for stage, seconds in stages_s.items()}
