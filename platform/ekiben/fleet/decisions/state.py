"""What the fleet's core knows: models, their replicas, who waits, who holds what. No decisions in here.

All times are on the clock of the events; infinity: not set.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from ekiben.contract.policy import Policy
from ekiben.errors import EkibenError, EngineError
from ekiben.fleet.decisions.events import Changed, Effect, Fail, Grant, SpareZygote, Want
from ekiben.fleet.decisions.ledger import HOST, Ledger, Memory, Place
from ekiben.fleet.decisions.routing import Prefixes
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.policy.history import History
from ekiben.fleet.timeline import Step, Timeline
from ekiben.fleet.types import State

UNKNOWN_COLD_COST_S = 1.0
"""What a start is taken to cost before there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Times and bounds that are the same for all models."""

    start_timeout_s: float
    drain_s: float
    max_waiting: int
    w_max_s: float = 3.0
    """No model waits longer because another one is busy."""
    hang_s: float = 30.0
    """A replica that gives no sign of life for so long is ended."""


class Purpose(IntEnum):
    """Why a replica is started; those for whom somebody waits come first when memory is short."""

    REQUEST = 0
    MINIMUM = 1
    REPLACE = 2
    SCALE = 3
    PREWARM = 4
    IDLE = 5
    """For work that nobody waits for."""

    @property
    def may_evict(self) -> bool:
        """Whether other models may go for it."""
        return self < Purpose.SCALE


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


@dataclass(frozen=True, slots=True)
class Waiter:
    want: Want
    prefix: Sequence[int] = ()
    fresh: bool = False
    """Only a replica of the model's spec as it is now will do."""
    leaving: frozenset[str] = frozenset()
    """For COLD: the replicas whose end is waited for."""


@dataclass(slots=True, eq=False)
class Replica:
    """One process, or the claim to one while there is no memory for it."""

    id: str
    model: ModelState
    purpose: Purpose
    places: tuple[Place, ...]
    engine: str
    timeline: Timeline
    generation: int
    device: str = HOST
    state: State = State.QUEUED
    launched: bool = False
    need: Memory | None = None
    """What it will hold on its device; None until that is known."""
    admitted: bool = False
    """The ledger has an account for it: it loads, or has loaded."""
    holds: Memory | None = None
    """What it was last measured to hold."""
    awaits: frozenset[str] = frozenset()
    """Accounts that are being closed to make room for it."""
    claims_since: float = math.inf
    leases: dict[int, float] = field(default_factory=dict)
    """Ticket, and when it was granted."""
    idle_leases: set[int] = field(default_factory=set)
    """Those of them that are for work which nobody waits for."""
    seen: Prefixes = field(default_factory=Prefixes)
    idle_since: float = 0.0
    ready_at: float = math.inf
    served: bool = False
    suspect_until: float = -math.inf
    """Until then it gets no new requests: a process that broke off is usually at its end."""
    silent_since: float = math.inf
    start_by: float = math.inf
    drain_by: float = math.inf
    kill_at: float = math.inf
    terminated: bool = False
    sleeps: bool = False
    """It can be put to sleep."""
    naps: bool = False
    """It leaves its device in order to sleep, or sleeps."""
    asleep_by: float = math.inf
    slept_until: float = math.inf
    last_words: str | None = None
    out_of_memory: bool = False
    load_progress: float | None = None

    @property
    def in_flight(self) -> int:
        return len(self.leases)

    @property
    def starting(self) -> bool:
        return self.state in (State.QUEUED, State.STARTING, State.LOADING)

    @property
    def outdated(self) -> bool:
        return self.generation != self.model.generation

    def can_serve(self, now: float) -> bool:
        """Whether it may be given a request."""
        return self.state is State.READY and now >= self.suspect_until and math.isinf(self.silent_since)


@dataclass(slots=True, eq=False)
class ModelState:
    """One model of the catalog."""

    name: str
    terms: Terms = field(default_factory=Terms)
    settled_terms: Terms | None = None
    """What follows from these has been done."""
    generation: int = 0
    """Counts the specs that it has had."""
    replicas: dict[str, Replica] = field(default_factory=dict)
    waiting: dict[int, Waiter] = field(default_factory=dict)
    """Tickets in order of arrival."""
    idling: dict[int, Waiter] = field(default_factory=dict)
    """Those for work that nobody waits for."""
    wanted: Purpose | None = None
    """Somebody asked for a replica that there is not yet, even if they have gone."""
    preparing: Timeline | None = None
    """A start that has no replica yet."""
    preparing_for: Purpose = Purpose.REQUEST
    preparing_generation: int = 0
    progress: float | None = None
    eta_s: float | None = None
    """Of the weights on their way."""
    failure: Failure | None = None
    failures: int = 0
    """Failed starts in a row."""
    strikes: int = 0
    """Deaths in a row of replicas that were ready."""
    unasked_after: float = -math.inf
    """Before that, no replica is started that nobody waits for."""
    history: History = field(default_factory=History)
    idle_from: float = math.inf
    """When its last request ended, whether it is loaded or not; infinity: it is busy, or was never used."""
    cold_cost_s: float = UNKNOWN_COLD_COST_S
    wake_cost_s: float | None = None
    """How long it takes to wake it; None: it was never woken."""
    slept_bytes: int | None = None
    """What it holds of the host while it sleeps; None: it never slept."""
    service_s: float = 0.0
    """How long its requests take, lately."""
    crowded_since: float = math.inf
    roomy_since: float = math.inf
    keep: tuple[tuple[object, ...], float] = ((), 0.0)
    """The policy's last keep-alive, and what it was for."""
    wake_at: float = math.inf
    """When something is due."""
    scheduled_at: float = math.inf
    """When it stands in the list of alarms: never after `wake_at`."""

    @property
    def in_flight(self) -> int:
        return sum(len(replica.leases) for replica in self.replicas.values())

    @property
    def in_use(self) -> int:
        """Requests under way for which somebody waits."""
        return sum(len(replica.leases) - len(replica.idle_leases) for replica in self.replicas.values())

    @property
    def demand(self) -> int:
        """Requests, running and waiting, for which somebody waits."""
        return self.in_use + sum(waiter.want is Want.LEASE for waiter in self.waiting.values())

    @property
    def called_for(self) -> bool:
        """Whether somebody waits for a replica, and not only work that nobody waits for."""
        return any(waiter.want in (Want.LEASE, Want.LOADED) for waiter in self.waiting.values())

    @property
    def current(self) -> list[Replica]:
        """Those that stay: of the model's spec as it is now, and not on their way out."""
        return [
            replica
            for replica in self.replicas.values()
            if replica.state not in (State.DRAINING, State.SLEPT) and not replica.outdated
        ]

    def serving(self, now: float, *, fresh: bool = False) -> list[Replica]:
        """Those that a request may be given to; `fresh`: of the spec as it is now."""
        able = [replica for replica in self.replicas.values() if replica.can_serve(now)]
        return [replica for replica in able if not replica.outdated] if fresh else able

    @property
    def state(self) -> State:
        """Of the model: that of the replica which is nearest to serving."""
        states = {replica.state for replica in self.replicas.values()}
        for state in (State.READY, State.LOADING, State.STARTING, State.QUEUED):
            if state in states:
                return state
        if self.preparing is not None:
            return State.FETCHING if self.preparing.step is Step.FETCHING else State.QUEUED
        for state in (State.DRAINING, State.SLEPT):
            if state in states:
                return state
        return State.COLD if self.failure is None else State.FAILED

    @property
    def start(self) -> Timeline | None:
        """The start that is under way, if there is one; of several, the one that is nearest to its end."""
        starting = [replica for replica in self.replicas.values() if replica.starting]
        if starting:
            return max(starting, key=lambda replica: list(State).index(replica.state)).timeline
        return self.preparing


class FleetState:
    """Everything, and what is to be done about it."""

    def __init__(self, rules: Rules, policy: Policy) -> None:
        self.rules = rules
        self.policy = policy
        self.ledger = Ledger()
        self.models: dict[str, ModelState] = {}
        self.replicas: dict[str, Replica] = {}
        self.leases: dict[int, Replica] = {}
        self.tickets: dict[int, ModelState] = {}
        self.zygotes: dict[str, SpareZygote] = {}
        """By account in the ledger."""
        self.with_idling: dict[ModelState, None] = {}
        """Models that work waits for which nobody waits for."""
        self.shutting_down = False
        self.effects: list[Effect] = []
        self.touched: dict[ModelState, None] = {}
        self._alarms: list[tuple[float, int, ModelState]] = []
        self._numbers = itertools.count()

    def model(self, name: str, terms: Terms | None = None) -> ModelState:
        """Made when it is first spoken of; the catalog decides what exists."""
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = ModelState(name)
        if terms is not None:
            model.terms = terms
        return model

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def touch(self, model: ModelState) -> None:
        """It has changed: what follows from that is decided once the event is taken."""
        self.touched[model] = None

    def tell(self, model: ModelState) -> None:
        """It has changed, and is worth telling of."""
        self.touched[model] = None
        self.effects.append(Changed(model.name))

    @property
    def hurried(self) -> bool:
        """Whether somebody waits for a replica that is on its way, or for the memory that it needs."""
        return any(
            model.called_for and any(replica.starting for replica in model.replicas.values())
            for model in self.models.values()
        )

    def answer(self, model: ModelState, ticket: int, error: EkibenError | None = None) -> None:
        """End a ticket's wait without a lease."""
        if model.waiting.pop(ticket, None) is None:
            self.drop_idling(model, ticket)
        del self.tickets[ticket]
        self.emit(Grant(ticket, None) if error is None else Fail(ticket, error))

    def drop_idling(self, model: ModelState, ticket: int) -> None:
        """Take a ticket for idle work out of its line."""
        del model.idling[ticket]
        if not model.idling:
            del self.with_idling[model]

    def remove(self, replica: Replica) -> None:
        """It is gone, and what it held with it."""
        del self.replicas[replica.id]
        del replica.model.replicas[replica.id]
        self.ledger.close(replica.id)
        for ticket in replica.leases:
            del self.leases[ticket]

    def schedule(self, model: ModelState, at: float) -> None:
        """Have it looked at then. Replaces what was scheduled."""
        model.wake_at = at
        if at < model.scheduled_at:
            self._put(model, at)

    def next_alarm(self) -> float:
        """Infinity when there is none. An alarm that was put off is put where it belongs only now: most
        are put off with every request, and never ring."""
        while self._alarms:
            at, _, model = self._alarms[0]
            if at == model.scheduled_at and model.wake_at <= at:
                return at
            heapq.heappop(self._alarms)
            if at == model.scheduled_at:
                model.scheduled_at = math.inf
                if not math.isinf(model.wake_at):
                    self._put(model, model.wake_at)
        return math.inf

    def _put(self, model: ModelState, at: float) -> None:
        model.scheduled_at = at
        heapq.heappush(self._alarms, (at, next(self._numbers), model))

    def due(self, now: float) -> None:
        """Touch every model whose time has come."""
        while (at := self.next_alarm()) <= now:
            _, _, model = heapq.heappop(self._alarms)
            assert at == model.scheduled_at
            model.scheduled_at = model.wake_at = math.inf
            self.touch(model)
