"""The fleet's decisions: events in, effects out, no I/O and no clock of its own.

`FleetCore` owns the state of every model and replica. It is called by one loop only (`supervisor`),
one event at a time, with the time of the event; what it returns must be carried out in order. Decisions
are made here, on the state itself, never on a snapshot: a read that gates a mutation would be a race.

A model's life:

    cold ─► queued ─► (fetching) ─► starting ─► loading ─► ready ─► draining ─► cold
                          └────────────┴──────────┴──► failed ─► (a later request) queued

There is at most one process for a model at any time. Waiting requests share its start; a request that
arrives while the model drains waits for the end of the old process and gets the new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ekiben.errors import (
    EkibenError,
    EngineError,
    LoadFailed,
    ModelNotReady,
    QueueFull,
    ReplicaDied,
    ShuttingDown,
)
from ekiben.fleet.events import (
    Arrive,
    Changed,
    Effect,
    Event,
    Exited,
    Fail,
    Forget,
    Grant,
    Kill,
    Launch,
    Prepare,
    Prepared,
    Preparing,
    Release,
    Reported,
    Shutdown,
    Stop,
    Terminate,
    Tick,
    Want,
    Withdraw,
)
from ekiben.fleet.model_state import Failure, ModelState, Replica
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Stage

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
STRIKES_BEFORE_BACKOFF = 3
"""A replica that dies while it serves is started again at once so many times in a row."""
STABLE_S = 60.0
"""A replica that served so long has proved itself: earlier deaths are forgotten."""
TERMINATE_GRACE_S = 10.0
"""Between asking a process to end and ending it."""
SUSPECT_S = 0.5
"""How long a replica that broke off is given to be seen dying: its sockets close a little before."""
LOAD_GRACE_S = 60.0
"""A model that was loaded ahead of its requests stays at least so long."""


class FleetCore:
    """All models and their replicas."""

    def __init__(self, *, start_timeout_s: float, drain_s: float, max_waiting: int) -> None:
        self._start_timeout_s = start_timeout_s
        self._drain_s = drain_s
        self._max_waiting = max_waiting
        self._models: dict[str, ModelState] = {}
        self._replicas: dict[str, ModelState] = {}
        self._leases: dict[int, ModelState] = {}
        self._tickets: dict[int, ModelState] = {}
        self._replica_count = 0
        self._shutting_down = False

    @property
    def models(self) -> dict[str, ModelState]:
        """For reading only."""
        return self._models

    @property
    def quiet(self) -> bool:
        """Whether no process is left."""
        return not self._replicas

    def model(self, name: str, keep_alive_s: float) -> ModelState:
        """The state of a model, made when it is first spoken of; the catalog decides what exists."""
        model = self._models.setdefault(name, ModelState(name))
        model.keep_alive_s = keep_alive_s
        return model

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event. Never raises for an event that is late or meant for something gone."""
        return list(self._route(event, now))

    def next_wake(self) -> float | None:
        """When a `Tick` is due, on the clock of the events; None: not until the next event."""
        return min((at for model in self._models.values() for at in self._alarms(model)), default=None)

    def _route(self, event: Event, now: float) -> Iterator[Effect]:
        match event:
            case Arrive():
                yield from self._arrive(event, now)
            case Withdraw():
                yield from self._withdraw(event)
            case Release():
                yield from self._release(event, now)
            case Preparing():
                yield from self._preparing(event)
            case Prepared():
                yield from self._prepared(event, now)
            case Reported():
                yield from self._reported(event, now)
            case Exited():
                yield from self._exited(event, now)
            case Stop():
                yield from self._stop(event, now)
            case Forget():
                self._models.pop(event.model, None)
            case Tick():
                for model in list(self._models.values()):
                    yield from self._tick(model, now)
            case Shutdown():
                yield from self._shutdown(now)

    # Requests

    def _arrive(self, event: Arrive, now: float) -> Iterator[Effect]:
        model = self.model(event.model, event.keep_alive_s)
        if refusal := self._refusal(model, now):
            yield Fail(event.ticket, refusal)
            return
        replica = model.replica
        if replica is not None and event.want is Want.WEIGHTS:
            yield Grant(event.ticket, None)
            return
        if replica is not None and replica.state is State.READY and now >= replica.suspect_until:
            yield from self._serve(model, event.ticket, event.want, now)
            return
        model.waiting[event.ticket] = event.want
        self._tickets[event.ticket] = model
        model.wanted |= event.want is not Want.WEIGHTS
        yield from self._begin(model, now)
        yield Changed(model.name)

    def _refusal(self, model: ModelState, now: float) -> EkibenError | None:
        if self._shutting_down:
            return ShuttingDown("the platform is shutting down")
        if model.failure is not None and now < model.failure.retry_at and model.replica is None:
            return model.failure.as_error(now)
        if len(model.waiting) >= self._max_waiting:
            return QueueFull(f"{len(model.waiting)} requests are waiting for {model.name!r}: try again later")
        return None

    def _begin(self, model: ModelState, now: float) -> Iterator[Effect]:
        """Start what the waiting need, unless it is under way or an old process must end first."""
        if model.preparing or model.replica is not None:
            return
        model.preparing = True
        model.state = State.QUEUED
        model.since = now
        model.progress = None
        yield Prepare(model.name)

    def _serve(self, model: ModelState, ticket: int, want: Want, now: float) -> Iterator[Effect]:
        replica = model.replica
        assert replica is not None and replica.state is State.READY
        if want is Want.LEASE:
            replica.leases.add(ticket)
            replica.served = True
            self._leases[ticket] = model
        replica.idle_since = now
        yield Grant(ticket, replica.id)
        yield Changed(model.name)

    def _withdraw(self, event: Withdraw) -> Iterator[Effect]:
        """Only the request goes: the start that it asked for is kept for the next one."""
        model = self._tickets.pop(event.ticket, None)
        if model is not None:
            del model.waiting[event.ticket]
            yield Changed(model.name)

    def _release(self, event: Release, now: float) -> Iterator[Effect]:
        model = self._leases.pop(event.ticket, None)
        if model is None or model.replica is None or event.ticket not in model.replica.leases:
            return
        replica = model.replica
        replica.leases.discard(event.ticket)
        replica.idle_since = now
        if event.died:
            replica.suspect_until = now + SUSPECT_S
        yield Changed(model.name)
        yield from self._tick(model, now)

    # Weights

    def _preparing(self, event: Preparing) -> Iterator[Effect]:
        model = self._models.get(event.model)
        if model is None or not model.preparing:
            return
        model.state = State.FETCHING
        model.progress = event.progress
        model.eta_s = event.eta_s
        yield Changed(model.name)

    def _prepared(self, event: Prepared, now: float) -> Iterator[Effect]:
        model = self._models.get(event.model)
        if model is None or not model.preparing:
            return
        model.preparing = False
        model.progress = model.eta_s = None
        if event.error is not None:
            yield from self._failed(model, event.error, now)
            return
        for ticket in [t for t, want in model.waiting.items() if want is Want.WEIGHTS]:
            yield from self._answer(model, ticket)
        if not model.wanted or self._shutting_down:
            model.state = State.COLD
            yield Changed(model.name)
            return
        self._replica_count += 1
        replica = Replica(id=f"r{self._replica_count}", since=now)
        replica.start_by = now + self._start_timeout_s
        model.replica = replica
        model.state = State.STARTING
        model.stages_s = {"prepare": now - model.since}
        self._replicas[replica.id] = model
        yield Launch(model.name, replica.id)
        yield Changed(model.name)

    # Replicas

    def _reported(self, event: Reported, now: float) -> Iterator[Effect]:
        model = self._replicas.get(event.replica_id)
        if model is None or model.replica is None or model.replica.state is State.DRAINING:
            return
        replica, report = model.replica, event.report
        if report.memory_bytes is not None:
            replica.memory_bytes = report.memory_bytes
        if report.stage is Stage.FAILED:
            replica.last_words = report.error
        else:
            self._enter(model, replica, State(report.stage.value), now)
            model.progress = report.progress
            if report.stage is Stage.READY:
                yield from self._became_ready(model, replica, now)
        yield Changed(model.name)

    def _enter(self, model: ModelState, replica: Replica, state: State, now: float) -> None:
        if state is not replica.state:
            model.stages_s[replica.state.value] = now - replica.since
            replica.state = state
            replica.since = now
        model.state = state

    def _became_ready(self, model: ModelState, replica: Replica, now: float) -> Iterator[Effect]:
        replica.start_by = math.inf
        replica.idle_since = replica.ready_at = now
        model.failure = None
        model.failures = 0
        model.wanted = False
        model.progress = None
        yield from self._serve_waiting(model, now)
        yield from self._tick(model, now)

    def _serve_waiting(self, model: ModelState, now: float) -> Iterator[Effect]:
        for ticket, want in list(model.waiting.items()):
            del model.waiting[ticket]
            del self._tickets[ticket]
            yield from self._serve(model, ticket, want, now)

    def _exited(self, event: Exited, now: float) -> Iterator[Effect]:
        model = self._replicas.pop(event.replica_id, None)
        if model is None or model.replica is None:
            return
        replica = model.replica
        model.replica = None
        for lease in replica.leases:
            self._leases.pop(lease, None)
        if replica.state is State.DRAINING:
            yield from self._went_cold(model, now)
        elif replica.state is State.READY:
            yield from self._died(model, replica, event.reason, now)
        else:
            reason = replica.last_words or event.reason
            yield from self._failed(model, LoadFailed(f"{model.name!r} did not start: {reason}"), now)

    def _died(self, model: ModelState, replica: Replica, reason: str, now: float) -> Iterator[Effect]:
        model.strikes = 1 if now - replica.ready_at >= STABLE_S else model.strikes + 1
        if model.strikes >= STRIKES_BEFORE_BACKOFF:
            message = f"{model.name!r} died {model.strikes} times in a row: {reason}"
            yield from self._failed(model, ReplicaDied(message), now)
        else:
            yield from self._went_cold(model, now)

    def _went_cold(self, model: ModelState, now: float) -> Iterator[Effect]:
        model.state = State.COLD
        model.progress = None
        for ticket in [t for t, want in model.waiting.items() if want is Want.COLD]:
            yield from self._answer(model, ticket)
        if model.waiting and not self._shutting_down:
            model.wanted = True
            yield from self._begin(model, now)
        yield Changed(model.name)

    def _failed(self, model: ModelState, error: EkibenError, now: float) -> Iterator[Effect]:
        model.failures += 1
        wait_s = 0.0
        if isinstance(error, EngineError) and error.retryable is not False:
            wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (model.failures - 1))
            error.retry_after_s = wait_s
        model.failure = Failure(error, now + wait_s)
        model.state = State.FAILED
        model.wanted = False
        model.progress = None
        for ticket, want in list(model.waiting.items()):
            yield from self._answer(model, ticket, None if want is Want.COLD else error)
        yield Changed(model.name)

    def _answer(self, model: ModelState, ticket: int, error: EkibenError | None = None) -> Iterator[Effect]:
        del model.waiting[ticket]
        del self._tickets[ticket]
        yield Grant(ticket, None) if error is None else Fail(ticket, error)

    # Time, and the end

    def _stop(self, event: Stop, now: float) -> Iterator[Effect]:
        model = self._models.get(event.model)
        replica = model.replica if model is not None else None
        if model is not None and (replica is None or replica.state is not State.READY):
            yield from self._turn_away(model)
        if model is None or replica is None:
            yield Grant(event.ticket, None)
            return
        model.waiting[event.ticket] = Want.COLD
        self._tickets[event.ticket] = model
        yield from self._drain(model, replica, now)

    def _turn_away(self, model: ModelState) -> Iterator[Effect]:
        """Whoever waits for a start that was called off; those who come later start it anew."""
        model.wanted = False
        error = ModelNotReady(f"{model.name!r} was stopped before it was ready: ask again to start it")
        for ticket, want in list(model.waiting.items()):
            if want in (Want.LEASE, Want.LOADED):
                yield from self._answer(model, ticket, error)

    def _drain(self, model: ModelState, replica: Replica, now: float) -> Iterator[Effect]:
        if replica.state is not State.DRAINING:
            self._enter(model, replica, State.DRAINING, now)
            replica.start_by = math.inf
            replica.drain_by = now + self._drain_s
            yield Changed(model.name)
        yield from self._tick(model, now)

    def _tick(self, model: ModelState, now: float) -> Iterator[Effect]:
        replica = model.replica
        if replica is None:
            return
        if replica.state is State.READY and model.waiting and now >= replica.suspect_until:
            yield from self._serve_waiting(model, now)  # it was wronged
        if replica.state is State.READY and now >= self._unload_at(model, replica):
            yield from self._drain(model, replica, now)
        elif replica.state is State.DRAINING and not replica.terminated:
            if not replica.leases or now >= replica.drain_by:
                replica.terminated = True
                replica.kill_at = now + TERMINATE_GRACE_S
                yield Terminate(replica.id)
        elif now >= replica.start_by or now >= replica.kill_at:
            if replica.start_by < math.inf:
                replica.last_words = f"it was not ready after {self._start_timeout_s:g} s"
            replica.start_by = replica.kill_at = math.inf
            yield Kill(replica.id)

    def _unload_at(self, model: ModelState, replica: Replica) -> float:
        if replica.leases or model.waiting:
            return math.inf
        keep_s = model.keep_alive_s if replica.served else max(model.keep_alive_s, LOAD_GRACE_S)
        return replica.idle_since + keep_s

    def unloads_in_s(self, model: ModelState, now: float) -> float | None:
        """Seconds until an idle model is unloaded; None when it is not loaded, busy, or stays."""
        if model.replica is None or model.replica.state is not State.READY:
            return None
        at = self._unload_at(model, model.replica)
        return None if math.isinf(at) else max(0.0, at - now)

    def _alarms(self, model: ModelState) -> Iterator[float]:
        replica = model.replica
        if replica is None:
            return
        candidates = [replica.start_by, replica.kill_at]
        if replica.state is State.READY:
            candidates.append(replica.suspect_until if model.waiting else self._unload_at(model, replica))
        if replica.state is State.DRAINING and not replica.terminated:
            candidates.append(replica.drain_by)
        yield from (at for at in candidates if not math.isinf(at))

    def _shutdown(self, now: float) -> Iterator[Effect]:
        self._shutting_down = True
        for model in self._models.values():
            for ticket, want in list(model.waiting.items()):
                if want is not Want.COLD:
                    error = ShuttingDown("the platform is shutting down")
                    yield from self._answer(model, ticket, error)
            if model.replica is not None:
                yield from self._drain(model, model.replica, now)
