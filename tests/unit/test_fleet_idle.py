"""Work that nobody waits for: it takes what is left, and nobody is kept waiting by it."""

from __future__ import annotations

from ekiben.errors import InsufficientMemory, ModelNotFound, ShuttingDown
from ekiben.fleet.decisions.events import (
    Arrive,
    Effect,
    Evicted,
    Fail,
    Forget,
    Go,
    Grant,
    Launch,
    Release,
    Shutdown,
    Spare,
    SpareZygote,
    Stop,
    StopZygote,
    Terminate,
    Want,
    Withdraw,
)
from ekiben.fleet.decisions.scaling import Terms, idle_concurrency
from ekiben.runtime.protocol import Stage
from tests.unit.fleet_in_hand import FleetInHand

ZYGOTE = SpareZygote(memory={"cpu": 15}, rate=0.1, cold_cost_s=1.0, last_use_s=0.0)


class Idling(FleetInHand):
    def idle(self, model: str) -> int:
        """A ticket for idle work; `self.effects` is what followed."""
        self.tickets += 1
        terms = self.terms.get(model, Terms())
        self.effects = self.send(Arrive(self.tickets, model, Want.LEASE, terms, idle=True))
        return self.tickets


def granted(effects: list[Effect]) -> list[int]:
    return [effect.ticket for effect in effects if isinstance(effect, Grant)]


def test_a_replica_keeps_a_place_free() -> None:
    fleet = Idling()
    fleet.ready("m")
    tickets = [fleet.idle("m") for _ in range(5)]
    assert fleet.core.models["m"].in_flight == 3
    fleet.arrive("m")
    assert fleet.core.models["m"].in_flight == 4
    assert granted(fleet.send(Release(fleet.tickets))) == []
    assert granted(fleet.send(Release(tickets[0]))) == [tickets[3]]


def test_engines_without_places_side_by_side_get_one_at_a_time() -> None:
    assert idle_concurrency(4, one_by_one=True) == 1
    assert idle_concurrency(1, one_by_one=False) == 1
    fleet = Idling()
    fleet.terms["m"] = Terms(idle_concurrency=1)
    fleet.ready("m")
    fleet.arrive("m")
    live = fleet.tickets
    ticket = fleet.idle("m")
    assert granted(fleet.effects) == []
    assert granted(fleet.send(Release(live))) == [ticket]


def test_whoever_waits_goes_first() -> None:
    fleet = Idling()
    replica = fleet.ready("m")
    running = [fleet.idle("m") for _ in range(3)]
    waiting = fleet.idle("m")
    fleet.exited(replica)
    fleet.arrive("m")
    live = fleet.tickets
    (launch,) = [e for e in fleet.prepared("m", 0) if isinstance(e, Launch)]
    assert granted(fleet.report(launch.replica_id, Stage.READY)) == [live, waiting]
    assert running


def test_nothing_is_begun_while_somebody_waits_for_a_start() -> None:
    fleet = Idling({"cpu": 100})
    fleet.ready("busy", 60)
    tickets = [fleet.idle("busy") for _ in range(4)]
    fleet.arrive("other")
    fleet.prepared("other", 80)
    assert granted(fleet.send(Release(tickets[0]))) == []
    effects = [effect for ticket in tickets[1:3] for effect in fleet.send(Release(ticket))]
    assert granted(effects) == []
    assert [e.model for e in effects if isinstance(e, Evicted)] == ["busy"]


def test_a_cold_model_is_started_where_memory_is_free() -> None:
    fleet = Idling({"cpu": 100})
    ticket = fleet.idle("m")
    (launch,) = [e for e in fleet.prepared("m", 50) if isinstance(e, Launch)]
    assert launch.go
    assert granted(fleet.report(launch.replica_id, Stage.READY)) == [ticket]


def test_no_model_goes_for_it_and_it_waits() -> None:
    fleet = Idling({"cpu": 100})
    fleet.terms["kept"] = Terms(keep_alive_s=1000.0)
    kept = fleet.ready("kept", 80)
    ticket = fleet.idle("m")
    assert not [e for e in fleet.prepared("m", 50) if isinstance(e, Launch | Evicted)]
    assert not [e for e in fleet.later(900) if isinstance(e, Launch | Terminate)]
    (launch,) = [e for e in fleet.later(200) if isinstance(e, Launch)]
    assert not launch.go
    assert fleet.exited(kept) == [Go(launch.replica_id)]
    assert granted(fleet.report(launch.replica_id, Stage.READY)) == [ticket]


def test_a_spare_zygote_goes_for_it() -> None:
    fleet = Idling({"cpu": 100})
    fleet.send(Spare({"e": ZYGOTE}))
    fleet.idle("m")
    effects = fleet.prepared("m", 90)
    assert [e for e in effects if isinstance(e, StopZygote)]
    assert [e for e in fleet.send(Spare({})) if isinstance(e, Go)]


def test_its_claim_waits_behind_one_of_somebody_who_waits() -> None:
    """Although it would fit."""
    fleet = Idling({"cpu": 100})
    fleet.ready("busy", 60)
    fleet.arrive("busy")
    fleet.arrive("large")
    fleet.prepared("large", 80)
    fleet.idle("small")
    assert not [e for e in fleet.prepared("small", 10) if isinstance(e, Launch)]


def test_a_start_for_it_is_for_whoever_comes() -> None:
    fleet = Idling({"cpu": 100})
    kept = fleet.ready("kept", 80)
    fleet.idle("m")
    fleet.prepared("m", 50)
    fleet.now += 60
    effects = fleet.arrive("m")
    assert [e for e in [*effects, *fleet.later(0)] if isinstance(e, Evicted)]
    assert fleet.core.models["m"].waiting
    assert fleet.exited(kept)


def test_a_claim_that_nobody_wants_any_more_is_given_up() -> None:
    fleet = Idling({"cpu": 100})
    fleet.ready("kept", 80)
    ticket = fleet.idle("m")
    fleet.prepared("m", 50)
    assert fleet.core.models["m"].replicas
    fleet.send(Withdraw(ticket))
    assert not fleet.core.models["m"].replicas


def test_what_can_never_fit_is_told() -> None:
    fleet = Idling({"cpu": 100})
    fleet.idle("m")
    (fail,) = [e for e in fleet.prepared("m", 200) if isinstance(e, Fail)]
    assert isinstance(fail.error, InsufficientMemory)


def test_it_tells_nothing_of_how_a_model_is_used() -> None:
    fleet = Idling()
    fleet.ready("m")
    model = fleet.core.models["m"]
    history, idle_from = model.history, model.idle_from
    fleet.now += 100
    fleet.send(Release(fleet.idle("m")))
    assert (model.history, model.idle_from) == (history, idle_from)
    for _ in range(20):
        fleet.idle("m")
    assert model.demand == 0


def test_a_model_stays_as_long_as_there_is_work() -> None:
    fleet = Idling()
    fleet.terms["m"] = Terms(keep_alive_s=0.0, idle_concurrency=1)
    ticket = fleet.idle("m")
    waiting = fleet.idle("m")
    (launch,) = [e for e in fleet.prepared("m", 0) if isinstance(e, Launch)]
    fleet.report(launch.replica_id, Stage.READY)
    assert granted(fleet.send(Release(ticket))) == [waiting]
    assert [e for e in fleet.send(Release(waiting)) if isinstance(e, Terminate)]


def test_everybody_is_told_of_the_end() -> None:
    fleet = Idling({"cpu": 100})
    fleet.idle("m")
    (fail,) = [e for e in fleet.send(Shutdown()) if isinstance(e, Fail)]
    assert isinstance(fail.error, ShuttingDown)
    fleet = Idling({"cpu": 100})
    fleet.terms["m"] = Terms(idle_concurrency=1)
    fleet.ready("m", 1)
    fleet.arrive("m")
    fleet.idle("m")
    fleet.send(Stop(99, "m"))
    (fail,) = [e for e in fleet.send(Forget("m")) if isinstance(e, Fail)]
    assert isinstance(fail.error, ModelNotFound)
