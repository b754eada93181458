"""The life of replicas: how starts begin and fail, and what reports and exits mean.

Memory is given out by `room`, who gets a request is decided in `requests`, and how replicas go in `leaving`.
"""

from __future__ import annotations

import math

from ekiben.errors import EkibenError, EngineError, LoadFailed, ReplicaDied
from ekiben.fleet.decisions.events import (
    Adopted,
    Exited,
    Launch,
    Measured,
    Prepare,
    Prepared,
    Preparing,
    RanOut,
    Replace,
    Reported,
    Started,
    StartFailed,
    Want,
)
from ekiben.fleet.decisions.leaving import Leaving
from ekiben.fleet.decisions.ledger import HOST, Memory, Place, largest
from ekiben.fleet.decisions.state import Failure, FleetState, ModelState, Purpose, Replica
from ekiben.fleet.timeline import Step, Timeline
from ekiben.fleet.types import State
from ekiben.runtime.process.devices import parts
from ekiben.runtime.protocol import Report, Stage

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
STRIKES_BEFORE_BACKOFF = 3
"""A replica that dies while it serves is started again at once so many times in a row."""
STABLE_S = 60.0
"""A replica that served so long has proved itself: earlier deaths are forgotten."""
UNASKED_PAUSE_S = 5.0
"""A start that nobody waits for, and that did not come off, is tried again after so long at the earliest."""
LONGEST_SLEEP_S = 4 * 3600.0
"""A slept replica that nobody wakes goes after so long; sooner, when its memory is wanted."""
SMOOTHING = 0.3
"""Share of the newest value in what is kept of cold costs and service times."""


class Life:
    """Of all replicas. `prefix`: what the ids of new ones begin with."""

    def __init__(self, state: FleetState, leaving: Leaving, *, prefix: str) -> None:
        self._state = state
        self._leaving = leaving
        self._prefix = prefix
        self._count = 0
        self.claims: list[Replica] = []
        """Replicas that have just come to know what memory they need."""

    # Starts

    def begin(self, model: ModelState, purpose: Purpose, now: float) -> None:
        """Have engine and weights looked for; `prepared` goes on."""
        model.preparing = Timeline(now)
        model.preparing_for = purpose
        model.preparing_generation = model.generation
        model.progress = model.eta_s = None
        self._state.emit(Prepare(model.name))
        self._state.tell(model)

    def preparing(self, event: Preparing, now: float) -> None:
        model = self._state.models.get(event.model)
        if model is None or model.preparing is None:
            return
        model.preparing.enter(Step.FETCHING, now)
        model.progress = event.progress
        model.eta_s = event.eta_s
        self._state.tell(model)

    def prepared(self, event: Prepared, now: float) -> None:
        model = self._state.models.get(event.model)
        if model is None or model.preparing is None:
            return
        if model.preparing_generation != model.generation and not self._state.shutting_down:
            self.begin(model, model.preparing_for, now)  # that was for a spec which is no more
            return
        timeline, model.preparing = model.preparing, None
        model.progress = model.eta_s = None
        self._state.tell(model)
        if event.error is not None:
            self._failed(model, event.error, now)
            return
        for ticket in [t for t, waiter in model.waiting.items() if waiter.want is Want.WEIGHTS]:
            self._state.answer(model, ticket)
        if event.cold_cost_s is not None:
            model.cold_cost_s = event.cold_cost_s
        if model.wanted is None or self._state.shutting_down:
            return
        self._make(model, event, timeline, now)

    def _make(self, model: ModelState, event: Prepared, timeline: Timeline, now: float) -> None:
        timeline.enter(Step.QUEUED, now)
        model.wanted = None
        replica = Replica(
            id=self._next_id(),
            model=model,
            purpose=model.preparing_for,
            places=event.places,
            engine=event.engine,
            timeline=timeline,
            generation=model.generation,
        )
        self._state.replicas[replica.id] = model.replicas[replica.id] = replica
        known = tuple(place for place in event.places if place.need is not None)
        if known:
            replica.places = known
            self.claims.append(replica)
        else:
            self._look(replica, now)

    def _look(self, replica: Replica, now: float) -> None:
        """Start its process where most is free; it says what it needs, and waits."""
        ledger = self._state.ledger
        free = {place.device: min(map(ledger.free, parts(place.device))) for place in replica.places}
        replica.device = max(free, key=free.__getitem__)
        replica.launched = True
        replica.state = State.STARTING
        replica.start_by = now + self._state.rules.start_timeout_s
        replica.timeline.enter(Step.STARTING, now)
        self._state.emit(Launch(replica.model.name, replica.id, replica.device, go=False))

    def _next_id(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"

    def adopt(self, event: Adopted, now: float) -> None:
        """It runs already."""
        model = self._state.model(event.model, event.terms)
        replica = Replica(
            id=event.replica_id,
            model=model,
            purpose=Purpose.REQUEST,
            places=(event.place,),
            engine=event.engine,
            timeline=Timeline(now, None),
            generation=model.generation,
            device=event.place.device,
            state=State.READY,
            launched=True,
            need=event.place.need or {},
            holds=event.place.need,
            admitted=True,
            idle_since=now,
            ready_at=now,
            served=True,
        )
        self._state.replicas[replica.id] = model.replicas[replica.id] = replica
        self._state.ledger.write(replica.id, replica.need or {})
        self._state.tell(model)

    # Reports

    def reported(self, event: Reported, now: float) -> None:
        replica = self._state.replicas.get(event.replica_id)
        if replica is None:
            return
        report = event.report
        if report.stage is Stage.SLEPT and replica.naps and not replica.terminated:
            self._fell_asleep(replica, report, now)
        if replica.state in (State.DRAINING, State.SLEPT) or report.stage is Stage.SLEPT:
            return
        if report.stage is Stage.FAILED:
            replica.last_words = report.error
            replica.out_of_memory = report.out_of_memory
        elif report.stage is Stage.STARTING:
            self._estimated(replica, report, now)
        elif report.stage is Stage.LOADING:
            replica.timeline.enter(Step.LOADING, now)
            replica.state = State.LOADING
            replica.load_progress = report.progress
        elif replica.state is not State.READY:
            self._became_ready(replica, report, now)
        self._state.tell(replica.model)

    def _estimated(self, replica: Replica, report: Report, now: float) -> None:
        """Its first word carries no numbers; its estimate counts where nothing was measured before."""
        if report.host_bytes is None or replica.admitted or replica.need is not None:
            return
        replica.need = _memory(report, replica.device)
        replica.places = (Place(replica.device, replica.need),)
        replica.start_by = math.inf  # from here on it is not the one that is waited for
        self.claims.append(replica)

    def _became_ready(self, replica: Replica, report: Report, now: float) -> None:
        model = replica.model
        woken, replica.naps = replica.naps, False
        replica.sleeps = report.sleeps
        replica.state = State.READY
        replica.start_by = math.inf
        replica.idle_since = replica.ready_at = now
        waited_for = any(waiter.want is Want.LEASE for waiter in model.waiting.values())
        replica.timeline.enter(Step.FIRST_TOKEN if waited_for else None, now)
        if not waited_for:
            self._state.emit(Started(replica.id, replica.timeline.done_s))
        done_s = replica.timeline.done_s
        cost_s = done_s.get(Step.STARTING.value, 0.0) + done_s.get(Step.LOADING.value, 0.0)
        if woken:
            model.wake_cost_s = cost_s
        else:
            model.cold_cost_s += SMOOTHING * (cost_s - model.cold_cost_s)
        model.failure = None
        model.failures = 0
        if report.host_bytes is not None:
            self._holds(replica, _memory(report, replica.device))

    # Sleep

    def _fell_asleep(self, replica: Replica, report: Report, now: float) -> None:
        replica.state = State.SLEPT
        replica.asleep_by = math.inf
        replica.slept_until = now + LONGEST_SLEEP_S
        memory = _memory(report, replica.device)
        replica.holds = memory
        replica.model.slept_bytes = memory[HOST]
        self._state.ledger.write(replica.id, memory)
        self._state.tell(replica.model)

    def wake(self, replica: Replica, purpose: Purpose, now: float) -> None:
        """It claims its device again."""
        replica.purpose = purpose
        replica.model.wanted = None
        replica.state = State.STARTING
        replica.admitted = False
        replica.claims_since = math.inf
        replica.slept_until = math.inf
        replica.timeline = Timeline(now)
        assert replica.need is not None, "it was loaded before it slept"
        replica.places = (Place(replica.device, replica.need),)
        self.claims.append(replica)
        self._state.tell(replica.model)

    # The first answer

    def began_to_answer(self, replica: Replica, now: float) -> None:
        """The end of a start, if it was one."""
        if replica.timeline.step is not None:
            replica.timeline.enter(None, now)
            self._state.emit(Started(replica.id, replica.timeline.done_s))

    def measured(self, event: Measured) -> None:
        """Of a replica that is loaded; what it needed at its most stays set aside for it."""
        replica = self._state.replicas.get(event.account)
        if replica is not None and replica.admitted and replica.state is State.READY:
            self._holds(replica, event.memory)

    def _holds(self, replica: Replica, memory: Memory) -> None:
        replica.holds = memory
        held = self._state.ledger.holding(replica.id)
        most = largest(held, memory)
        if most != held:
            self._state.ledger.write(replica.id, most)

    # Ends

    def exited(self, event: Exited, now: float) -> None:
        replica = self._state.replicas.get(event.replica_id)
        if replica is None:
            return
        model = replica.model
        self._state.remove(replica)
        if replica.state is State.READY:
            self._died(replica, event.reason, now)
        elif replica.state not in (State.DRAINING, State.SLEPT):
            # Who was killed from here has no `start_by` any more.
            by_the_system = event.killed and replica.state is State.LOADING and replica.start_by < math.inf
            out_of_memory = replica.out_of_memory or by_the_system
            self._did_not_start(replica, event.reason, out_of_memory, now)
        self._state.tell(model)

    def _did_not_start(self, replica: Replica, reason: str, out_of_memory: bool, now: float) -> None:
        why = replica.last_words or reason
        if out_of_memory:
            self._state.emit(RanOut(replica.model.name, replica.device, replica.need or {}))
            why = f"it ran out of memory while it was loaded; more is set aside for the next try: {why}"
        error = LoadFailed(f"{replica.model.name!r} did not start: {why}")
        self._failed(replica.model, error, now)

    def _died(self, replica: Replica, reason: str, now: float) -> None:
        model = replica.model
        model.strikes = 1 if now - replica.ready_at >= STABLE_S else model.strikes + 1
        if model.strikes >= STRIKES_BEFORE_BACKOFF:
            why = replica.last_words or reason
            message = f"{model.name!r} died {model.strikes} times in a row: {why}"
            self._failed(model, ReplicaDied(message), now)

    def fail_start(self, replica: Replica, error: EkibenError, now: float) -> None:
        """There is no use in going on with it."""
        self._call_off(replica, now)
        self._failed(replica.model, error, now)

    def give_up(self, replica: Replica, now: float) -> None:
        """Nobody waits for it, and it would harm others."""
        replica.model.unasked_after = now + UNASKED_PAUSE_S
        self._call_off(replica, now)

    def _call_off(self, replica: Replica, now: float) -> None:
        if replica.launched:
            self._leaving.drain(replica, now)
        else:
            self._state.remove(replica)
        self._state.tell(replica.model)

    def _failed(self, model: ModelState, error: EkibenError, now: float) -> None:
        model.failures += 1
        self._state.emit(StartFailed(model.name, error.error_code or type(error).__name__))
        pause_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (model.failures - 1))
        model.unasked_after = now + max(pause_s, UNASKED_PAUSE_S)
        model.wanted = None
        if any(replica.starting or replica.state is State.READY for replica in model.current):
            return  # what there is goes on
        wait_s = 0.0
        if isinstance(error, EngineError) and error.retryable is not False:
            wait_s = error.retry_after_s = pause_s
        model.failure = Failure(error, now + wait_s)
        outdated = any(replica.state is State.READY for replica in model.replicas.values())
        for ticket, waiter in [*model.waiting.items(), *model.idling.items()]:
            if waiter.want is not Want.COLD and (waiter.fresh or not outdated):
                self._state.answer(model, ticket, error)

    # New specs

    def replace(self, event: Replace, now: float) -> None:
        """Starts under way are called off; what serves goes on until there is a replica of the new spec."""
        model = self._state.models.get(event.model)
        if model is None:
            return
        model.terms = event.terms
        model.generation += 1
        model.failure = None
        model.failures = 0
        model.unasked_after = -math.inf
        for replica in list(model.replicas.values()):
            if replica.starting:
                model.wanted = replica.purpose
                self._call_off(replica, now)
        self._state.tell(model)


def _memory(report: Report, device: str) -> dict[str, int]:
    host = {HOST: report.host_bytes or 0}
    return host if device == HOST else host | dict.fromkeys(parts(device), report.device_bytes or 0)
