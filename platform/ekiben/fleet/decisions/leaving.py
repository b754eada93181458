"""How replicas go: drained first, put to sleep where that pays, ended when they do not end by themselves.

Who has to go is decided elsewhere.
"""

from __future__ import annotations

import math

from ekiben.errors import ModelNotReady
from ekiben.fleet.decisions.events import Kill, Sleep, Terminate, Want
from ekiben.fleet.decisions.ledger import HOST
from ekiben.fleet.decisions.state import FleetState, ModelState, Replica
from ekiben.fleet.types import State

TERMINATE_GRACE_S = 10.0
"""Between asking a process to end and ending it."""
EVICTION_DRAIN_S = 600.0
"""Requests on a replica that goes for another model are cut off only after so long."""


class Leaving:
    """Of all replicas."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def drain(self, replica: Replica, now: float, *, evicted: bool = False) -> None:
        """No new requests; it ends when those that it has are over. One without a process is just gone."""
        if replica.state is State.DRAINING:
            return
        replica.naps = False  # who sleeps, or is about to wake, goes for good
        if not replica.launched:
            self._state.remove(replica)
        else:
            replica.state = State.DRAINING
            replica.start_by = math.inf
            replica.drain_by = now + (EVICTION_DRAIN_S if evicted else self._state.rules.drain_s)
        self._state.tell(replica.model)

    def stop(self, model: ModelState, now: float) -> None:
        """All replicas; who waits for a start that is called off is told so."""
        if not model.serving(now):
            error = ModelNotReady(f"{model.name!r} was stopped before it was ready: ask again to start it")
            for ticket, waiter in [*model.waiting.items(), *model.idling.items()]:
                if waiter.want in (Want.LEASE, Want.LOADED):
                    self._state.answer(model, ticket, error)
        model.wanted = None
        for replica in list(model.replicas.values()):
            self.drain(replica, now)
            replica.naps = False
            replica.drain_by = min(replica.drain_by, now + self._state.rules.drain_s)

    def nap(self, replica: Replica, now: float, *, evicted: bool, host_free: float) -> None:
        """Have it leave its device as `drain` does, but keep its process, if that pays and there is room
        for what it would hold on the host."""
        model = replica.model
        held = self._state.ledger.holding(replica.id)
        expected = sum(held.values()) if model.slept_bytes is None else model.slept_bytes
        pays = model.wake_cost_s is None or model.wake_cost_s < model.cold_cost_s
        fits = expected - held.get(HOST, 0) <= host_free
        naps = replica.state is State.READY and replica.sleeps and not replica.outdated and pays and fits
        self.drain(replica, now, evicted=evicted)
        replica.naps |= naps

    def settle(self, replica: Replica, now: float) -> None:
        """What time asks of a replica."""
        if replica.state is State.SLEPT and now >= replica.slept_until:
            self.drain(replica, now)
        if replica.state is State.DRAINING and not replica.terminated:
            self._go_on_draining(replica, now)
        elif now >= self.kill_at(replica):
            if now >= replica.start_by:
                replica.last_words = f"it was not ready after {self._state.rules.start_timeout_s:g} s"
            elif math.isfinite(replica.silent_since):
                replica.last_words = f"it gave no sign of life for {self._state.rules.hang_s:g} s"
            replica.start_by = replica.kill_at = math.inf
            if math.isfinite(replica.silent_since):
                replica.silent_since = now  # once more after as long again, should it survive
            self._state.emit(Kill(replica.id))

    def _go_on_draining(self, replica: Replica, now: float) -> None:
        if replica.naps and replica.asleep_by < math.inf:
            if now < replica.asleep_by:
                return
        elif replica.leases and now < replica.drain_by:
            return
        elif replica.naps and not replica.leases:
            replica.asleep_by = now + self._state.rules.hang_s
            self._state.emit(Sleep(replica.id))
            return
        replica.naps = False
        replica.terminated = True
        replica.kill_at = now + TERMINATE_GRACE_S
        self._state.emit(Terminate(replica.id))

    def kill_at(self, replica: Replica) -> float:
        """When a process that does not do what it should is ended."""
        return min(replica.start_by, replica.kill_at, replica.silent_since + self._state.rules.hang_s)
