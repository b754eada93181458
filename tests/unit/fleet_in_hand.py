"""The fleet's core with a clock in the hand, for tests of its rules."""

from __future__ import annotations

from collections.abc import Sequence

from ekiben.contract.policy import Idle, Resident
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import (
    Arrive,
    Budgets,
    Changed,
    Effect,
    Event,
    Exited,
    Launch,
    Prepared,
    Release,
    Reported,
    StartFailed,
    Tick,
    Want,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.decisions.state import Rules
from ekiben.runtime.protocol import Report, Stage


class PlainPolicy:
    """The least recently used goes first; five minutes for all."""

    def worth(self, resident: Resident) -> float:
        return resident.last_use_s

    def keep_alive_s(self, idle: Idle) -> float:
        return 300.0


class FleetInHand:
    """`Changed` and `StartFailed` are left out of what it returns."""

    def __init__(self, budgets: dict[str, int] | None = None, *, max_waiting: int = 10) -> None:
        rules = Rules(start_timeout_s=60, drain_s=30, max_waiting=max_waiting)
        self.core = FleetCore(rules, PlainPolicy())
        self.now = 1000.0
        self.tickets = 0
        self.terms: dict[str, Terms] = {}
        if budgets is not None:
            self.send(Budgets(budgets))

    def send(self, event: Event) -> list[Effect]:
        return [e for e in self.core.handle(event, self.now) if not isinstance(e, (Changed, StartFailed))]

    def arrive(
        self, model: str, want: Want = Want.LEASE, *, prefix: Sequence[int] = (), fresh: bool = False
    ) -> list[Effect]:
        """The next ticket's: `self.tickets` is its number afterwards."""
        self.tickets += 1
        return self.send(Arrive(self.tickets, model, want, self.terms.get(model, Terms()), prefix, fresh))

    def prepared(self, model: str, need: int | None = None, *, device: str = "cpu") -> list[Effect]:
        known = None if need is None else {device: need}
        return self.send(Prepared(model, None, (Place(device, known),)))

    def report(self, replica: str, stage: Stage, *, host_bytes: int | None = None) -> list[Effect]:
        return self.send(Reported(replica, Report(stage=stage, host_bytes=host_bytes)))

    def ready(self, model: str, need: int = 0) -> str:
        """Bring a model up and answer one request; its replica."""
        self.arrive(model)
        ticket = self.tickets
        (launch,) = [e for e in self.prepared(model, need) if isinstance(e, Launch)]
        self.report(launch.replica_id, Stage.READY)
        self.now += 5
        self.send(Release(ticket))
        return launch.replica_id

    def exited(self, replica: str, reason: str = "exit code 0") -> list[Effect]:
        return self.send(Exited(replica, reason))

    def later(self, seconds: float) -> list[Effect]:
        """With every alarm on the way."""
        end, effects = self.now + seconds, []
        while (at := self.core.next_wake()) is not None and at <= end:
            self.now = max(self.now, at)
            effects += self.send(Tick())
        self.now = end
        return effects + self.send(Tick())
