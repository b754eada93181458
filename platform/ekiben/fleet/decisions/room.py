"""Memory for those who want to start: goes through the claims, and has others leave where need be.

Decides nothing by itself: `admission` does, on what is put together here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from ekiben.errors import InsufficientMemory
from ekiben.fleet.decisions.admission import Admit, Claim, Evict, Holder, Refuse, Wait, decide, plan_of
from ekiben.fleet.decisions.events import Evicted, Go, Launch, StopZygote, Wake
from ekiben.fleet.decisions.leaving import Leaving
from ekiben.fleet.decisions.ledger import HOST, Place, relieve
from ekiben.fleet.decisions.life import Life
from ekiben.fleet.decisions.state import FleetState, ModelState, Purpose, Replica
from ekiben.fleet.timeline import Step, Timeline
from ekiben.fleet.types import Fit, State

LEAST_RESIDENCE_S = 0.25
"""A model that was just loaded stays at least so long, or as long as its start took."""


def zygote_account(engine: str) -> str:
    """In the ledger."""
    return f"zygote {engine}"


class Room:
    """The memory of all devices."""

    def __init__(self, state: FleetState, life: Life, leaving: Leaving) -> None:
        self._state = state
        self._leaving = leaving
        self._life = life
        self._claims: dict[str, Replica] = {}
        self.wake_at = math.inf
        """When a claim has to be looked at again, if nothing happens before."""

    def claim(self, replica: Replica, now: float) -> None:
        """It knows what it needs, and wants it."""
        replica.claims_since = min(replica.claims_since, now)
        self._claims[replica.id] = replica

    def settle(self, now: float) -> None:
        """Give out what is free, and make room for the rest. Idempotent."""
        self.wake_at = math.inf
        if not self._claims and not self._state.ledger.excess():
            return
        self._claims = {r.id: r for r in self._claims.values() if self._still_wants(r)}
        reserved: dict[str, float] = {}
        promised: set[str] = set()
        for replica in sorted(self._claims.values(), key=lambda r: (r.purpose, r.claims_since)):
            replica.awaits = frozenset(a for a in replica.awaits if a in self._state.ledger)
            if replica.purpose is Purpose.IDLE and self._others_wait():
                replica.timeline.enter(Step.QUEUED, now)  # what is free now may be what they wait for
                continue
            self._decide(replica, reserved, promised, now)
        self._relieve_pressure(promised, now)

    def _others_wait(self) -> bool:
        return any(each.purpose.may_evict and self._still_wants(each) for each in self._claims.values())

    def _still_wants(self, replica: Replica) -> bool:
        return replica.id in self._state.replicas and replica.starting and not replica.admitted

    def _decide(self, replica: Replica, reserved: dict[str, float], promised: set[str], now: float) -> None:
        """`reserved` and `promised`: free memory, and accounts about to be closed, of earlier claims."""
        ledger = self._state.ledger
        own = ledger.holding(replica.id)  # of one that is asleep
        verdict = decide(
            _claim_of(replica),
            free=lambda device: ledger.free(device) - reserved.get(device, 0) + own.get(device, 0),
            budget=ledger.budget,
            holders=[h for h in self._holders(replica, now) if h.account not in promised],
            worth=self._state.policy.worth,
            w_max_s=self._state.rules.w_max_s,
            now=now,
        )
        match verdict:
            case Admit(place):
                replica.device, replica.need = place.device, place.need
                self._admit(replica, now)
            case Evict(place, accounts):
                replica.device, replica.need = place.device, place.need
                if replica.awaits != frozenset(accounts):
                    self._make_room(replica, accounts, now)
                promised.update(accounts)
                self._reserve(replica, reserved)
            case Wait(until):
                replica.timeline.enter(Step.QUEUED, now)
                self.wake_at = min(self.wake_at, until)
                if not replica.purpose.may_evict and not self._idles(replica):
                    self._life.give_up(replica, now)
            case Refuse(reason) if replica.purpose.may_evict or self._idles(replica):
                name = replica.model.name
                error = InsufficientMemory(
                    f"{name!r} does not fit: {reason}: allow more with the setting 'memory', "
                    "or choose smaller weights or options"
                )
                self._life.fail_start(replica, error, now)
            case Refuse():
                self._life.give_up(replica, now)

    def _idles(self, replica: Replica) -> bool:
        """Whether work that nobody waits for still waits for it, as long as that may take."""
        return replica.purpose is Purpose.IDLE and bool(replica.model.idling)

    def _reserve(self, replica: Replica, reserved: dict[str, float]) -> None:
        """What it needs beyond the accounts that it awaits is taken out of what is free now."""
        assert replica.need is not None
        for device, size in replica.need.items():
            coming = sum(self._state.ledger.holding(account).get(device, 0) for account in replica.awaits)
            reserved[device] = reserved.get(device, 0) + max(0, size - coming)

    def _admit(self, replica: Replica, now: float) -> None:
        assert replica.need is not None
        self._state.ledger.write(replica.id, replica.need)
        replica.admitted = True
        replica.awaits = frozenset()
        replica.start_by = now + self._state.rules.start_timeout_s
        replica.timeline.enter(Step.STARTING, now)
        if replica.naps:
            self._state.emit(Wake(replica.id))
        elif replica.launched:
            self._state.emit(Go(replica.id))
        else:
            self._launch(replica, go=True)
        self._state.tell(replica.model)

    def _make_room(self, replica: Replica, accounts: tuple[str, ...], now: float) -> None:
        replica.timeline.enter(Step.EVICTING, now)
        replica.awaits = frozenset(accounts)
        for account in accounts:
            self._evict(account, replica, now)
        if not replica.launched:  # so that it is there when the memory is
            self._launch(replica, go=False)
        self._state.tell(replica.model)

    def _launch(self, replica: Replica, *, go: bool) -> None:
        replica.launched = True
        replica.state = State.STARTING
        self._state.emit(Launch(replica.model.name, replica.id, replica.device, go))

    def _evict(self, account: str, claimant: Replica, now: float) -> None:
        zygote = self._state.zygotes.get(account)
        if zygote is not None:
            self._state.zygotes[account] = replace(zygote, leaving=True)
            if not zygote.leaving:
                self._state.emit(StopZygote(account.removeprefix("zygote ")))
            return
        victim = self._state.replicas[account]
        if victim.state is not State.DRAINING:
            self._state.emit(Evicted(victim.model.name, victim.id, claimant.model.name))
            wanted = (claimant.need or {}).get(HOST, 0)
            free = self._state.ledger.free(HOST) - wanted
            self._leaving.nap(victim, now, evicted=True, host_free=free)

    def fit(self, model: ModelState, places: tuple[Place, ...], engine: str, now: float) -> Fit:
        """What would be decided if somebody asked for the model now, and had waited long enough."""
        ledger = self._state.ledger
        known = tuple(place for place in places if place.need is not None)
        loaded = [replica for replica in model.current if replica.state is State.READY]
        told = partial(
            Fit,
            model=model.name,
            free={device: int(ledger.free(device)) for device in ledger.budgets},
            budgets=dict(ledger.budgets),
        )
        if loaded:
            return told(fits="loaded", device=loaded[0].device, need=ledger.holding(loaded[0].id))
        if not known:
            return told(fits="unknown", device=places[0].device if places else None, need=None)
        asker = Replica("", model, Purpose.REQUEST, known, engine, Timeline(now), model.generation)
        verdict = decide(
            Claim(name=model.name, places=known, since=-math.inf),
            free=ledger.free,
            budget=ledger.budget,
            holders=self._holders(asker, now),
            worth=self._state.policy.worth,
            w_max_s=self._state.rules.w_max_s,
            now=now + self._state.rules.w_max_s,  # who was just loaded may go by then
        )
        match verdict:
            case Admit(place):
                return told(fits="now", device=place.device, need=place.need)
            case Evict(place, accounts):
                names = tuple(self._name_of(account) for account in accounts)
                return told(fits="after evictions", device=place.device, need=place.need, would_go=names)
            case Refuse(reason):
                return told(fits="never", device=known[0].device, need=known[0].need, reason=reason)
            case Wait():
                return told(fits="later", device=known[0].device, need=known[0].need)

    def _name_of(self, account: str) -> str:
        replica = self._state.replicas.get(account)
        return account if replica is None else replica.model.name

    # Who holds memory

    def _holders(self, claimant: Replica, now: float) -> list[Holder]:
        ledger = self._state.ledger
        zygotes = [
            Holder(
                account=account,
                name=account,
                memory=ledger.holding(account),
                leaving=zygote.leaving,
                last_resort=account == zygote_account(claimant.engine),
                rate=zygote.rate,
                cold_cost_s=zygote.cold_cost_s,
                last_use_s=zygote.last_use_s,
                idle_s=max(0.0, now - zygote.last_use_s),
            )
            for account, zygote in self._state.zygotes.items()
            if account in ledger
        ]
        replicas = [r for r in self._state.replicas.values() if r.admitted and r is not claimant]
        return zygotes + [self._holder(replica, claimant, now) for replica in replicas]

    def _holder(self, replica: Replica, claimant: Replica, now: float) -> Holder:
        model = replica.model
        leaving = replica.state is State.DRAINING
        own = model is claimant.model
        superseded = own and replica.outdated
        return Holder(
            account=replica.id,
            name=model.name,
            memory=self._state.ledger.holding(replica.id),
            leaving=leaving,
            fixed=not leaving and not superseded and (own or _fixed(replica)),
            movable_at=self._movable_at(replica, claimant, superseded),
            # Whoever is superseded goes at once: its requests end first, and the next ones are held.
            busy=bool(replica.leases) and not superseded,
            service_s=model.service_s,
            rate=model.history.rate(now),
            cold_cost_s=_spared_s(replica),
            last_use_s=replica.idle_since,
            idle_s=0.0 if replica.leases else max(0.0, now - replica.idle_since),
            gaps_s=model.history.gaps_s,
        )

    def _movable_at(self, replica: Replica, claimant: Replica, superseded: bool) -> float:
        if superseded:
            return -math.inf
        if claimant.purpose is Purpose.IDLE:
            return math.inf  # it waits until models go by themselves
        if replica.state is State.SLEPT:
            return -math.inf
        if replica.state is not State.READY or claimant.purpose is Purpose.REPLACE:
            return math.inf  # a new spec is no reason to harm others
        residence_s = max(LEAST_RESIDENCE_S, replica.model.cold_cost_s)
        return replica.ready_at + min(residence_s, self._state.rules.w_max_s)

    def _relieve_pressure(self, promised: set[str], now: float) -> None:
        """More is held than may be: a budget fell, or a model grew. Idle ones go."""
        excess = self._state.ledger.excess()
        if not excess:
            return
        admitted = [r for r in self._state.replicas.values() if r.admitted and r.id not in promised]
        going = [self._state.ledger.holding(r.id) for r in admitted if r.state is State.DRAINING]
        idle = [r for r in admitted if r.state is State.READY and not r.leases and not _fixed(r)]
        holders = [self._holder(r, r, now) for r in idle]
        plan = plan_of(holders, relieve(excess, going), self._state.policy.worth)
        for holder in holders if plan is None else plan:
            victim = self._state.replicas[holder.account]
            self._state.emit(Evicted(victim.model.name, victim.id, ""))
            self._leaving.drain(victim, now, evicted=True)


def _claim_of(replica: Replica) -> Claim:
    return Claim(
        name=replica.model.name,
        places=tuple(place for place in replica.places if place.need is not None),
        since=replica.claims_since,
        may_evict=replica.purpose.may_evict or replica.purpose is Purpose.IDLE,  # zygotes alone
    )


def _fixed(replica: Replica) -> bool:
    """Pinned, or one of the least number that the model's terms name."""
    if replica.outdated or replica.state is State.SLEPT:
        return False
    terms = replica.model.terms
    return terms.pinned or len(replica.model.current) <= terms.min_replicas


def _spared_s(replica: Replica) -> float:
    """What a start takes longer without it."""
    cold_s, wake_s = replica.model.cold_cost_s, replica.model.wake_cost_s or 0.0
    return max(0.0, cold_s - wake_s) if replica.state is State.SLEPT else cold_s
