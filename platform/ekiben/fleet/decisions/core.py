"""The fleet's decisions: events in, effects out, no I/O and no clock of its own.

`FleetCore` owns the state of every model and replica. It is called by one loop only (`supervisor`),
one event at a time, with the time of the event; what it returns must be carried out in order. Decisions
are made here, on the state itself, never on a snapshot: a read that gates a mutation would be a race.

A replica's life:

    queued ─► starting ─► loading ─► ready ─► draining ─► gone
       └──────────┴──────────┴──► failed: its model tells why, and pauses

An event first changes the state (`requests`, `life`); then every model that it touched is settled: the
waiting are served, starts begun, idle replicas drained. Last, `room` gives memory to who claims it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ekiben.contract.policy import Idle, Policy
from ekiben.errors import ModelNotFound, ShuttingDown
from ekiben.fleet.decisions.events import (
    Adopted,
    Answered,
    Arrive,
    Budgets,
    Effect,
    Event,
    Exited,
    FirstByte,
    Forget,
    Grant,
    Keep,
    Measured,
    Prepared,
    Preparing,
    Release,
    Replace,
    Reported,
    Shutdown,
    Silent,
    Spare,
    Stop,
    Tick,
    Want,
    Withdraw,
)
from ekiben.fleet.decisions.leaving import Leaving
from ekiben.fleet.decisions.ledger import HOST, Ledger, Place
from ekiben.fleet.decisions.life import Life
from ekiben.fleet.decisions.requests import Requests
from ekiben.fleet.decisions.room import Room, zygote_account
from ekiben.fleet.decisions.scaling import SCALE_IN_S, SCALE_OUT_S, can_spare_one, needed
from ekiben.fleet.decisions.state import FleetState, ModelState, Purpose, Replica, Rules, Waiter
from ekiben.fleet.policy.history import History
from ekiben.fleet.types import Fit, State

LOAD_GRACE_S = 60.0
"""A model that was loaded ahead of its requests stays at least so long."""


class FleetCore:
    """All models and their replicas. `prefix` begins the ids of replicas, and is another one each time
    that the platform is started on the same home."""

    def __init__(self, rules: Rules, policy: Policy, *, prefix: str = "r") -> None:
        self._state = FleetState(rules, policy)
        self._leaving = Leaving(self._state)
        self._life = Life(self._state, self._leaving, prefix=prefix)
        self._requests = Requests(self._state, self._life)
        self._room = Room(self._state, self._life, self._leaving)

    # For reading

    @property
    def models(self) -> dict[str, ModelState]:
        """Of which anything happened yet."""
        return self._state.models

    @property
    def replicas(self) -> dict[str, Replica]:
        """Of all models, and claims to replicas."""
        return self._state.replicas

    @property
    def ledger(self) -> Ledger:
        return self._state.ledger

    @property
    def quiet(self) -> bool:
        """Whether no process is left."""
        return not any(replica.launched for replica in self._state.replicas.values())

    def next_wake(self) -> float | None:
        """When a `Tick` is due, on the clock of the events; None: not until the next event."""
        at = min(self._state.next_alarm(), self._room.wake_at)
        return None if math.isinf(at) else at

    def unloads_in_s(self, model: ModelState, now: float) -> float | None:
        """Seconds until an idle model is unloaded; None when it is not loaded, busy, or stays."""
        if not any(replica.state is State.READY for replica in model.replicas.values()):
            return None
        at = self._unload_at(model)
        return None if math.isinf(at) else max(0.0, at - now)

    def has_choice(self, model: str) -> bool:
        """Whether a request would have more than one replica to go to."""
        known = self._state.models.get(model)
        return known is not None and sum(r.state is State.READY for r in known.replicas.values()) > 1

    def waits_for_first_byte(self, replica_id: str) -> bool:
        """Whether a `FirstByte` would tell anything."""
        replica = self._state.replicas.get(replica_id)
        return replica is not None and replica.timeline.step is not None

    def fit(self, model: str, places: tuple[Place, ...], engine: str, now: float) -> Fit:
        """Whether a model with such needs fits now, and who would go for it."""
        return self._room.fit(self._state.model(model), places, engine, now)

    # Events

    def remember(self, model: str, history: History) -> None:
        """What is known of a model from earlier runs, its times on the clock of the events."""
        self._state.model(model).history = history

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event. Never raises for an event that is late or meant for something gone."""
        self._take(event, now)
        self._settle(now)
        effects, self._state.effects = self._state.effects, []
        return effects

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Arrive():
                self._requests.arrive(event, now)
            case Release():
                self._requests.release(event, now)
            case FirstByte():
                self._requests.first_byte(event, now)
            case Withdraw():
                self._requests.withdraw(event)
            case Preparing():
                self._life.preparing(event, now)
            case Prepared():
                self._life.prepared(event, now)
            case Reported():
                self._life.reported(event, now)
            case Exited():
                self._life.exited(event, now)
            case Measured():
                self._life.measured(event)
            case Tick():
                self._state.due(now)
            case _:
                self._take_rarer(event, now)

    def _take_rarer(self, event: Event, now: float) -> None:
        match event:
            case Silent() | Answered():
                self._hear(event, now)
            case Keep():
                self._keep(event, now)
            case Replace():
                self._life.replace(event, now)
            case Adopted():
                self._life.adopt(event, now)
            case Budgets():
                self._state.ledger.budgets = event.memory
            case Spare():
                self._spare(event)
            case Stop():
                self._stop(event, now)
            case Forget():
                self._forget(event.model)
            case Shutdown():
                self._shutdown(now)

    def _hear(self, event: Silent | Answered, now: float) -> None:
        replica = self._state.replicas.get(event.replica_id)
        if replica is None or replica.state is not State.READY:
            return
        if isinstance(event, Answered):
            replica.silent_since = math.inf
        elif math.isinf(replica.silent_since):
            replica.silent_since = now
        self._state.tell(replica.model)

    def _keep(self, event: Keep, now: float) -> None:
        model = self._state.model(event.model, event.terms)
        if event.prewarm and model.wanted is None and not model.replicas and now >= model.unasked_after:
            model.wanted = Purpose.PREWARM
        self._state.touch(model)

    def _spare(self, event: Spare) -> None:
        for account in self._state.zygotes:
            self._state.ledger.close(account)
        self._state.zygotes = {zygote_account(engine): zygote for engine, zygote in event.zygotes.items()}
        for account, zygote in self._state.zygotes.items():
            self._state.ledger.write(account, zygote.memory)

    def _stop(self, event: Stop, now: float) -> None:
        model = self._state.models.get(event.model)
        if model is None:
            self._state.emit(Grant(event.ticket, None))
            return
        self._leaving.stop(model, now)
        model.terms = replace(model.terms, min_replicas=0)  # until somebody asks for it again
        leaving = frozenset(replica.id for replica in model.replicas.values())
        model.waiting[event.ticket] = Waiter(Want.COLD, leaving=leaving)
        self._state.tickets[event.ticket] = model
        self._state.tell(model)

    def _forget(self, name: str) -> None:
        if (model := self._state.models.pop(name, None)) is not None:
            model.wake_at = math.inf
            for ticket in list(model.idling):
                self._state.answer(model, ticket, ModelNotFound(f"the model {name!r} left the catalog"))

    def _shutdown(self, now: float) -> None:
        self._state.shutting_down = True
        for model in self._state.models.values():
            for ticket, waiter in [*model.waiting.items(), *model.idling.items()]:
                if waiter.want is not Want.COLD:
                    self._state.answer(model, ticket, ShuttingDown("the platform is shutting down"))
            self._leaving.stop(model, now)

    # What follows

    def _settle(self, now: float) -> None:
        """Until nothing follows any more."""
        while True:
            while self._state.touched:
                model = next(iter(self._state.touched))
                del self._state.touched[model]
                self._settle_model(model, now)
            for replica in self._life.claims:
                self._room.claim(replica, now)
            self._life.claims.clear()
            self._room.settle(now)
            if not self._state.touched:
                self._requests.settle_idle(now)
            if not self._state.touched:
                return

    def _settle_model(self, model: ModelState, now: float) -> None:
        model.settled_terms = model.terms
        self._requests.settle(model, now)
        if not self._state.shutting_down:
            self._start_what_is_needed(model, now)
        self._drain_what_is_not(model, now)
        for replica in list(model.replicas.values()):
            self._leaving.settle(replica, now)
        if self._state.models.get(model.name) is model:
            # What was due by now has just been looked at.
            at = min((at for at in self._alarms(model) if at > now), default=math.inf)
            self._state.schedule(model, at)

    def _start_what_is_needed(self, model: ModelState, now: float) -> None:
        if model.preparing is not None:
            return
        current = model.current
        if not current:
            self._start_first(model, now)
            return
        if any(replica.starting for replica in current) or now < model.unasked_after:
            return
        if len(current) < model.terms.min_replicas:
            self._want(model, Purpose.MINIMUM, now)
        elif self._crowded_for(model, len(current), now) >= SCALE_OUT_S:
            self._want(model, Purpose.SCALE, now)

    def _start_first(self, model: ModelState, now: float) -> None:
        if model.called_for:
            model.wanted = Purpose.REQUEST
        elif model.idling and model.wanted is None and now >= model.unasked_after:
            model.wanted = Purpose.IDLE
        outdated = [replica for replica in model.replicas.values() if replica.outdated]
        slept = [r for r in model.replicas.values() if r.state is State.SLEPT and not r.outdated]
        if slept and model.wanted is not None:
            self._life.wake(slept[0], model.wanted, now)
            return
        if len(outdated) + len(slept) < len(model.replicas):
            return  # the old process has to end first
        if any(waiter.want is Want.WEIGHTS for waiter in model.waiting.values()) or model.wanted is not None:
            self._life.begin(model, model.wanted or Purpose.REQUEST, now)
        elif now < model.unasked_after:
            return
        elif any(replica.state is State.READY for replica in outdated):
            self._want(model, Purpose.REPLACE, now)
        elif model.terms.min_replicas:
            self._want(model, Purpose.MINIMUM, now)

    def _want(self, model: ModelState, purpose: Purpose, now: float) -> None:
        model.wanted = purpose
        self._life.begin(model, purpose, now)

    def _crowded_for(self, model: ModelState, replicas: int, now: float) -> float:
        """Seconds for which there has been more to do than so many replicas are meant for."""
        if model.terms.max_replicas <= 1 or needed(model.terms, model.demand) <= replicas:
            model.crowded_since = math.inf
            return 0.0
        model.crowded_since = min(model.crowded_since, now)
        return now - model.crowded_since

    def _drain_what_is_not(self, model: ModelState, now: float) -> None:
        ready = [replica for replica in model.current if replica.state is State.READY]
        for replica in list(model.replicas.values()):
            if replica.outdated and (ready or replica.starting or replica.state is State.SLEPT):
                self._leaving.drain(replica, now, evicted=True)
        if ready and now >= self._unload_at(model):
            for replica in ready[model.terms.min_replicas :]:
                self._leaving.nap(replica, now, evicted=False, host_free=self.ledger.free(HOST))
        elif len(ready) > 1:
            self._scale_in(model, ready, now)

    def _scale_in(self, model: ModelState, ready: list[Replica], now: float) -> None:
        if not can_spare_one(model.terms, demand=model.demand, replicas=len(ready)):
            model.roomy_since = math.inf
            return
        model.roomy_since = min(model.roomy_since, now)
        if now - model.roomy_since >= SCALE_IN_S:
            model.roomy_since = now
            self._leaving.drain(min(ready, key=lambda replica: (replica.in_flight, -replica.ready_at)), now)

    # Time

    def _unload_at(self, model: ModelState) -> float:
        """When the model has been idle long enough; what its terms keep, stays even then."""
        ready = [replica for replica in model.current if replica.state is State.READY]
        if len(ready) <= model.terms.min_replicas or model.called_for or model.idling or model.in_flight:
            return math.inf
        keep_s = self._keep_alive_s(model, ready)
        if not any(replica.served for replica in ready):
            keep_s = max(keep_s, LOAD_GRACE_S)
        return max(replica.idle_since for replica in ready) + keep_s

    def _keep_alive_s(self, model: ModelState, ready: list[Replica]) -> float:
        if model.terms.keep_alive_s is not None:
            return model.terms.keep_alive_s
        size_bytes = sum(sum(self.ledger.holding(replica.id).values()) for replica in ready)
        asked = (model.history.gaps_s, size_bytes, model.cold_cost_s)
        if model.keep[0] != asked:
            idle = Idle(model.name, size_bytes, model.cold_cost_s, model.history.gaps_s)
            model.keep = (asked, self._state.policy.keep_alive_s(idle))
        return model.keep[1]

    def _alarms(self, model: ModelState) -> list[float]:
        alarms = [
            self._unload_at(model),
            model.unasked_after,
            model.crowded_since + SCALE_OUT_S,
            model.roomy_since + SCALE_IN_S,
        ]
        for replica in model.replicas.values():
            alarms.append(self._leaving.kill_at(replica))
            if replica.state is State.DRAINING and not replica.terminated:
                alarms.append(replica.drain_by)
            alarms += (replica.asleep_by, replica.slept_until)
            if model.waiting or model.idling:
                alarms.append(replica.suspect_until)
        return alarms
