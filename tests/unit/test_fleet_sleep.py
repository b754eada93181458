"""Replicas that sleep: who is put to sleep, who is woken, and who goes after all."""

from __future__ import annotations

import pytest

from ekiben.fleet.decisions.events import (
    Effect,
    Evicted,
    Exited,
    Go,
    Grant,
    Launch,
    Prepare,
    Prepared,
    Release,
    Replace,
    Reported,
    Sleep,
    Stop,
    Terminate,
    Wake,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.life import LONGEST_SLEEP_S
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Report, Stage
from tests.unit.fleet_in_hand import FleetInHand

M = "m"
ON_GPU = (Place("cuda:0", {"cpu": 10, "cuda:0": 60}),)
NAP = Report(stage=Stage.SLEPT, host_bytes=70, device_bytes=0)


class Bedroom(FleetInHand):
    """One GPU, and models that can sleep."""

    def __init__(self, *, host: int = 1000) -> None:
        super().__init__({"cpu": host, "cuda:0": 100})

    def bring(self, model: str, places: tuple[Place, ...] = ON_GPU) -> str:
        """Up, used once, idle since; its replica."""
        self.arrive(model)
        (launch,) = [e for e in self.send(Prepared(model, None, places)) if isinstance(e, Launch)]
        self.send(Reported(launch.replica_id, Report(stage=Stage.STARTING)))
        self.now += 4
        self.wakes_up(launch.replica_id)
        self.now += 5
        self.send(Release(self.tickets))
        return launch.replica_id

    def wakes_up(self, replica: str) -> list[Effect]:
        ready = Report(stage=Stage.READY, host_bytes=10, device_bytes=60, sleeps=True)
        return self.send(Reported(replica, ready))

    def naps(self, replica: str) -> list[Effect]:
        return self.send(Reported(replica, NAP))


@pytest.fixture
def fleet() -> Bedroom:
    return Bedroom()


def test_idle_model_that_can_sleep_is_put_to_sleep(fleet: Bedroom) -> None:
    fleet.bring(M)
    assert fleet.later(300) == [Sleep("r1")]
    assert fleet.core.models[M].state is State.DRAINING
    fleet.naps("r1")
    assert fleet.core.models[M].state is State.SLEPT
    assert fleet.core.ledger.holding("r1") == {"cpu": 70, "cuda:0": 0}


def test_request_wakes_it(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    assert fleet.arrive(M) == [Wake("r1")]
    assert fleet.core.ledger.holding("r1") == {"cpu": 10, "cuda:0": 60}
    fleet.now += 0.5
    assert Grant(fleet.tickets, "r1") in fleet.wakes_up("r1")
    assert fleet.core.models[M].wake_cost_s == 0.5


def test_request_that_comes_while_it_falls_asleep_wakes_it_then(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    assert fleet.arrive(M) == []
    assert fleet.naps("r1") == [Wake("r1")]


def test_model_that_goes_for_another_one_sleeps_and_the_other_starts(fleet: Bedroom) -> None:
    fleet.bring("a")
    fleet.arrive("b")
    effects = fleet.send(Prepared("b", None, ON_GPU))
    assert effects == [Evicted("a", "r1", "b"), Launch("b", "r2", "cuda:0", go=False), Sleep("r1")]
    assert fleet.naps("r1") == [Go("r2")]


def test_swap_back_wakes_the_one_and_puts_the_other_to_sleep(fleet: Bedroom) -> None:
    fleet.bring("a")
    fleet.arrive("b")
    fleet.send(Prepared("b", None, ON_GPU))
    fleet.naps("r1")
    fleet.wakes_up("r2")
    fleet.now += 5
    fleet.send(Release(fleet.tickets))
    assert fleet.arrive("a") == [Evicted("b", "r2", "a"), Sleep("r2")]
    assert fleet.naps("r2") == [Wake("r1")]
    assert Grant(fleet.tickets, "r1") in fleet.wakes_up("r1")


def test_who_finds_no_room_on_the_host_does_not_sleep() -> None:
    fleet = Bedroom(host=50)
    fleet.bring(M)
    assert fleet.later(300) == [Terminate("r1")]


def test_sleep_that_saves_nothing_is_not_repeated(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    fleet.arrive(M)
    fleet.now += 60
    fleet.wakes_up("r1")
    fleet.send(Release(fleet.tickets))
    assert fleet.later(300) == [Terminate("r1")], "a cold start is quicker"


def test_slept_one_goes_when_the_host_is_wanted(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    fleet.arrive("large")
    effects = fleet.send(Prepared("large", None, (Place("cpu", {"cpu": 950}),)))
    assert Terminate("r1") in effects
    assert Go("r2") in fleet.send(Exited("r1", ""))


def test_slept_one_that_nobody_wakes_goes_in_the_end(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    assert fleet.later(LONGEST_SLEEP_S) == [Terminate("r1")]


def test_sleep_that_does_not_come_is_an_end(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    assert fleet.later(30) == [Terminate("r1")]


def test_death_in_sleep_is_no_failure(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    assert fleet.send(Exited("r1", "SIGKILL", killed=True)) == []
    assert fleet.core.models[M].state is State.COLD
    assert fleet.arrive(M) == [Prepare(M)]


def test_stop_ends_a_slept_one(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    assert fleet.send(Stop(99, M)) == [Terminate("r1")]
    assert fleet.send(Exited("r1", "")) == [Grant(99, None)]


def test_new_spec_ends_a_slept_one(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    assert fleet.send(Replace(M, Terms())) == [Terminate("r1")]


def test_new_spec_ends_one_that_is_about_to_wake(fleet: Bedroom) -> None:
    fleet.bring(M)
    fleet.later(300)
    fleet.naps("r1")
    fleet.arrive(M)
    assert fleet.send(Replace(M, Terms())) == [Prepare(M), Terminate("r1")]
