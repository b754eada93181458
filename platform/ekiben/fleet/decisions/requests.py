"""Requests: who is served at once, who waits, who is refused, and what their coming and going tells.

Work that nobody waits for (`idle`) stands in a line of its own and is looked at last, when everything that
follows from an event has been done: it is served while nobody waits, up to a number that leaves a place.
"""

from __future__ import annotations

import math

from ekiben.errors import EkibenError, QueueFull, ShuttingDown
from ekiben.fleet.decisions.events import Arrive, Changed, Fail, FirstByte, Grant, Release, Want, Withdraw
from ekiben.fleet.decisions.life import SMOOTHING, Life
from ekiben.fleet.decisions.routing import choose
from ekiben.fleet.decisions.state import FleetState, ModelState, Purpose, Replica, Waiter
from ekiben.fleet.types import State

SUSPECT_S = 0.5
"""How long a replica that broke off is given to be seen dying: its sockets close a little before."""


class Requests:
    """Tickets and leases."""

    def __init__(self, state: FleetState, life: Life) -> None:
        self._state = state
        self._life = life

    def arrive(self, event: Arrive, now: float) -> None:
        """Granted, refused, or in line."""
        model = self._state.model(event.model, event.terms)
        if refusal := self._refusal(model, event, now):
            self._state.emit(Fail(event.ticket, refusal))
            return
        if event.idle:
            self._stand_by(model, event)
            return
        if event.want is Want.LEASE and _note_use(model, now):
            self._state.touch(model)
        if event.want is Want.WEIGHTS and model.replicas:
            self._state.emit(Grant(event.ticket, None))
            return
        waiter = Waiter(event.want, event.prefix, event.fresh)
        serving = model.serving(now, fresh=event.fresh)
        if event.want is not Want.WEIGHTS and (replica := choose(serving, event.prefix)):
            self._serve(replica, event.ticket, waiter, now)
            return
        model.waiting[event.ticket] = waiter
        self._state.tickets[event.ticket] = model
        if event.want is not Want.WEIGHTS:
            _hurry(model)
        self._state.tell(model)

    def _stand_by(self, model: ModelState, event: Arrive) -> None:
        model.idling[event.ticket] = Waiter(event.want, event.prefix, event.fresh)
        self._state.tickets[event.ticket] = model
        self._state.with_idling[model] = None
        self._state.touch(model)

    def _refusal(self, model: ModelState, event: Arrive, now: float) -> EkibenError | None:
        if self._state.shutting_down:
            return ShuttingDown("the platform is shutting down")
        there = model.current if event.fresh else model.replicas
        if model.failure is not None and now < model.failure.retry_at and not there:
            return model.failure.as_error(now)
        line = model.idling if event.idle else model.waiting
        if len(line) >= self._state.rules.max_waiting:
            return QueueFull(f"{len(line)} requests are waiting for {model.name!r}: try again later")
        return None

    def withdraw(self, event: Withdraw) -> None:
        """Only the request goes: the start that it asked for is kept for the next one."""
        model = self._state.tickets.pop(event.ticket, None)
        if model is not None:
            if model.waiting.pop(event.ticket, None) is None:
                self._state.drop_idling(model, event.ticket)
            self._state.tell(model)

    def first_byte(self, event: FirstByte, now: float) -> None:
        """The engine has begun to answer."""
        if (replica := self._state.leases.get(event.ticket)) is not None:
            self._life.began_to_answer(replica, now)

    def release(self, event: Release, now: float) -> None:
        """Harmless when the lease is no more."""
        replica = self._state.leases.pop(event.ticket, None)
        if replica is None:
            return
        model = replica.model
        took_s = now - replica.leases.pop(event.ticket)
        model.service_s += SMOOTHING * (took_s - model.service_s)
        replica.idle_since = now
        if event.ticket in replica.idle_leases:
            replica.idle_leases.discard(event.ticket)
        elif model.in_use == 0:
            model.idle_from = now
        if event.died:
            replica.suspect_until = now + SUSPECT_S
        self._life.began_to_answer(replica, now)
        if event.died or not self._is_routine(replica):
            self._state.touch(model)
        self._state.emit(Changed(model.name))

    def _is_routine(self, replica: Replica) -> bool:
        """Whether nothing can follow from one request more or less on a replica.

        Its unload is put off, no more: an alarm that is set already rings too early then, and is set anew.
        """
        model = replica.model
        return (
            replica.state is State.READY
            and model.settled_terms is model.terms
            and model.terms.max_replicas <= 1
            and model.wake_at < math.inf
            and not model.waiting
            and not model.idling
            and len(model.replicas) == 1
        )

    def settle(self, model: ModelState, now: float) -> None:
        """Give the waiting what they wait for, if it is there."""
        if not model.waiting:
            return
        for ticket, waiter in list(model.waiting.items()):
            if waiter.want is Want.COLD and waiter.leaving.isdisjoint(model.replicas):
                self._state.answer(model, ticket)
        if not model.serving(now):
            return
        for ticket, waiter in list(model.waiting.items()):
            if waiter.want not in (Want.LEASE, Want.LOADED):
                continue
            if replica := choose(model.serving(now, fresh=waiter.fresh), waiter.prefix):
                del model.waiting[ticket]
                del self._state.tickets[ticket]
                self._serve(replica, ticket, waiter, now)

    def settle_idle(self, now: float) -> None:
        """Serve work that nobody waits for, as far as nobody is kept waiting by it. Idempotent."""
        if not self._state.with_idling or self._state.hurried:
            return
        for model in list(self._state.with_idling):
            for ticket, waiter in list(model.idling.items()):
                if model.called_for or not self._serve_idle(model, ticket, waiter, now):
                    break

    def _serve_idle(self, model: ModelState, ticket: int, waiter: Waiter, now: float) -> bool:
        most = model.terms.idle_concurrency
        serving = [each for each in model.serving(now, fresh=waiter.fresh) if each.in_flight < most]
        replica = choose(serving, waiter.prefix)
        if replica is None:
            return False
        self._state.drop_idling(model, ticket)
        del self._state.tickets[ticket]
        replica.idle_leases.add(ticket)
        self._serve(replica, ticket, waiter, now)
        return True

    def _serve(self, replica: Replica, ticket: int, waiter: Waiter, now: float) -> None:
        if waiter.want is Want.LEASE:
            replica.leases[ticket] = now
            replica.served = True
            replica.seen.note(waiter.prefix)
            self._state.leases[ticket] = replica
        replica.idle_since = now
        self._state.emit(Grant(ticket, replica.id))
        self._state.emit(Changed(replica.model.name))
        if not self._is_routine(replica):
            self._state.touch(replica.model)


def _hurry(model: ModelState) -> None:
    """Somebody waits: what was begun for lesser reasons is for them now."""
    model.wanted = model.preparing_for = Purpose.REQUEST
    for replica in model.replicas.values():
        replica.purpose = Purpose.REQUEST


def _note_use(model: ModelState, now: float) -> bool:
    """Whether there was an idle time that tells something."""
    gaps_s = model.history.gaps_s
    if model.idle_from < math.inf:
        model.history = model.history.after_idling(now - model.idle_from)
        model.idle_from = math.inf
    model.history = model.history.after_use(now)
    return model.history.gaps_s is not gaps_s
