"""Who gets memory, who goes for it, and who waits: the fleet's core on devices with a budget."""

from __future__ import annotations

import pytest

from ekiben.errors import InsufficientMemory, LoadFailed
from ekiben.fleet.decisions.events import (
    Budgets,
    Evicted,
    Exited,
    Fail,
    Go,
    Grant,
    Keep,
    Launch,
    Measured,
    Prepare,
    Prepared,
    RanOut,
    Release,
    Reported,
    Spare,
    SpareZygote,
    StopZygote,
    Terminate,
    Want,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Report, Stage
from tests.unit.fleet_in_hand import FleetInHand


@pytest.fixture
def fleet() -> FleetInHand:
    return FleetInHand({"cpu": 100})


def test_what_fits_loads_at_once(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    assert fleet.prepared("a", 60) == [Launch("a", "r1", "cpu", go=True)]
    assert fleet.core.ledger.free("cpu") == 40


def test_unknown_need_is_asked_of_the_process_before_it_loads(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    assert fleet.prepared("a", None) == [Launch("a", "r1", "cpu", go=False)]
    assert fleet.report("r1", Stage.STARTING) == []
    assert fleet.report("r1", Stage.STARTING, host_bytes=60) == [Go("r1")]
    assert fleet.core.ledger.free("cpu") == 40


def test_what_can_never_fit_is_refused_with_the_arithmetic_and_harms_nobody() -> None:
    fleet = FleetInHand({"cpu": 100_000_000})
    fleet.ready("b", 50_000_000)
    fleet.arrive("a")
    (failed,) = fleet.prepared("a", 150_000_000)
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, InsufficientMemory)
    assert "150 MB on cpu, where 100 MB may be used in all" in failed.error.message
    assert fleet.core.models["b"].state is State.READY


def test_process_whose_estimate_can_never_fit_is_ended(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", None)
    failed, *ended = fleet.report("r1", Stage.STARTING, host_bytes=150)
    assert isinstance(failed, Fail) and isinstance(failed.error, InsufficientMemory)
    assert ended == [Terminate("r1")]
    assert fleet.exited("r1") == []
    assert fleet.core.models["a"].state is State.FAILED
    assert fleet.arrive("a") == [Prepare("a")], "weights or options may be others by now"


def test_pinned_models_are_named_when_they_are_in_the_way(fleet: FleetInHand) -> None:
    fleet.terms["rock"] = Terms(pinned=True)
    fleet.ready("rock", 60)
    fleet.arrive("a")
    (failed,) = fleet.prepared("a", 50)
    assert isinstance(failed, Fail)
    assert "'rock'" in failed.error.message


def test_idle_model_goes_and_its_successor_starts_meanwhile(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.arrive("b")
    assert fleet.prepared("b", 60) == [
        Evicted("a", "r1", "b"),
        Launch("b", "r2", "cpu", go=False),
        Terminate("r1"),
    ]
    assert fleet.core.models["b"].start is not None
    assert fleet.core.models["b"].start.step == "evicting"
    assert fleet.exited("r1") == [Go("r2")]
    assert fleet.report("r2", Stage.READY)[0] == Grant(fleet.tickets, "r2")


def test_least_worthy_goes_and_nobody_without_need(fleet: FleetInHand) -> None:
    fleet.ready("old", 30)
    fleet.ready("middle", 30)
    fleet.ready("young", 30)
    fleet.arrive("new")
    evicted = [e for e in fleet.prepared("new", 40) if isinstance(e, Evicted)]
    assert evicted == [Evicted("old", "r1", "new")]


def test_two_who_need_the_same_memory_do_not_evict_for_the_same_bytes(fleet: FleetInHand) -> None:
    fleet.ready("a", 50)
    fleet.ready("b", 50)
    fleet.arrive("c")
    fleet.prepared("c", 50)
    fleet.arrive("d")
    evicted = [e for e in fleet.prepared("d", 50) if isinstance(e, Evicted)]
    assert evicted == [Evicted("b", "r2", "d")]
    assert Go("r3") in fleet.exited("r1")
    assert Go("r4") in fleet.exited("r2")


def test_busy_model_is_drained_once_the_other_has_waited_its_longest(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.core.models["a"].service_s = 0.0
    fleet.arrive("a")
    busy = fleet.tickets
    fleet.arrive("b")
    assert fleet.prepared("b", 60) == []
    assert fleet.core.models["b"].state is State.QUEUED
    assert fleet.later(2.9) == []
    effects = fleet.later(0.1)
    assert fleet.core.models["a"].state is State.DRAINING
    assert Terminate("r1") not in effects, "its request ends first"
    fleet.arrive("a")
    assert Terminate("r1") in fleet.send(Release(busy))
    assert Go("r2") in fleet.exited("r1")
    assert Grant(fleet.tickets - 1, "r2") in fleet.report("r2", Stage.READY)


def test_fair_wait_begins_with_the_claim_and_leaves_room_for_the_drain(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.core.models["a"].service_s = 1.0
    fleet.arrive("a")
    fleet.arrive("b")
    fleet.prepared("b", 60)
    assert fleet.later(1.9) == []
    assert any(isinstance(e, Evicted) for e in fleet.later(0.1))


def test_model_that_was_just_loaded_is_left_alone_for_a_while(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", 60)
    fleet.now += 2.0
    fleet.report("r1", Stage.READY)
    fleet.send(Release(1))
    fleet.arrive("b")
    assert fleet.prepared("b", 60) == []
    cost_s = fleet.core.models["a"].cold_cost_s
    assert fleet.core.next_wake() == fleet.now + cost_s
    assert any(isinstance(e, Evicted) for e in fleet.later(cost_s))


def test_loading_model_is_waited_for(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", 60)
    fleet.arrive("b")
    assert fleet.prepared("b", 60) == []
    assert fleet.later(50) == [], "a load is never thrown away for another model"
    fleet.report("r1", Stage.READY)
    fleet.send(Release(1))
    assert any(isinstance(e, Evicted) for e in fleet.later(3))


def test_smaller_one_that_fits_does_not_wait_behind_a_larger_one(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.arrive("a")
    fleet.arrive("large")
    fleet.prepared("large", 90)
    fleet.arrive("small")
    assert fleet.prepared("small", 30) == [Launch("small", "r3", "cpu", go=True)]


def test_prewarmed_model_never_evicts(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    assert fleet.send(Keep("b", Terms(), prewarm=True)) == [Prepare("b")]
    assert fleet.prepared("b", 60) == []
    assert fleet.core.models["b"].state is State.COLD
    assert fleet.core.models["a"].state is State.READY
    assert fleet.send(Keep("b", Terms(), prewarm=True)) == [], "not at once again"


def test_prewarmed_model_starts_where_there_is_room(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.send(Keep("b", Terms(), prewarm=True))
    assert fleet.prepared("b", 40) == [Launch("b", "r2", "cpu", go=True)]


def test_request_makes_a_prewarm_its_own(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.send(Keep("b", Terms(), prewarm=True))
    assert fleet.arrive("b") == []
    assert any(isinstance(e, Evicted) for e in fleet.prepared("b", 60))


def test_out_of_memory_is_learned_and_told(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", 60)
    fleet.report("r1", Stage.LOADING)
    fleet.send(Reported("r1", Report(stage=Stage.FAILED, error="no more", out_of_memory=True)))
    learned, failed = fleet.exited("r1", "exit code 3")
    assert learned == RanOut("a", "cpu", {"cpu": 60})
    assert isinstance(failed, Fail) and isinstance(failed.error, LoadFailed)
    assert "ran out of memory" in failed.error.message
    assert fleet.core.ledger.free("cpu") == 100
    (refused,) = fleet.arrive("a")
    assert isinstance(refused, Fail), "not in a loop"


def test_kill_by_the_system_while_loading_counts_as_out_of_memory(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", 60)
    fleet.report("r1", Stage.LOADING)
    assert isinstance(fleet.send(Exited("r1", "SIGKILL", killed=True))[0], RanOut)


def test_kill_of_a_start_that_hangs_does_not(fleet: FleetInHand) -> None:
    fleet.arrive("a")
    fleet.prepared("a", 60)
    fleet.report("r1", Stage.LOADING)
    fleet.later(60)
    (failed,) = fleet.send(Exited("r1", "SIGKILL", killed=True))
    assert isinstance(failed, Fail) and "not ready after 60 s" in failed.error.message


def test_model_that_grows_has_idle_ones_go(fleet: FleetInHand) -> None:
    fleet.ready("a", 40)
    fleet.ready("b", 40)
    fleet.arrive("b")
    assert fleet.send(Measured("r2", {"cpu": 70})) == [Evicted("a", "r1", ""), Terminate("r1")]
    assert fleet.core.models["b"].state is State.READY


def test_peak_stays_set_aside(fleet: FleetInHand) -> None:
    fleet.ready("a", 40)
    fleet.send(Measured("r1", {"cpu": 60}))
    fleet.send(Measured("r1", {"cpu": 20}))
    assert fleet.core.ledger.free("cpu") == 40


def test_smaller_budget_has_idle_ones_go_and_no_busy_one(fleet: FleetInHand) -> None:
    fleet.ready("a", 40)
    fleet.ready("b", 40)
    fleet.arrive("a")
    fleet.arrive("b")
    assert fleet.send(Budgets({"cpu": 50})) == []
    assert fleet.send(Release(fleet.tickets)) == [Evicted("b", "r2", ""), Terminate("r2")]


def test_zygote_goes_before_a_model_that_is_worth_more(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    idle = SpareZygote(memory={"cpu": 30}, rate=0.0, cold_cost_s=1.0, last_use_s=0.0)
    fleet.send(Spare({"torch": idle}))
    fleet.arrive("b")
    assert fleet.prepared("b", 40) == [StopZygote("torch"), Launch("b", "r2", "cpu", go=False)]
    assert fleet.send(Spare({})) == [Go("r2")]
    assert fleet.core.models["a"].state is State.READY


def test_model_goes_where_it_fits_among_several_devices() -> None:
    fleet = FleetInHand({"cpu": 1000, "cuda:0": 100, "cuda:1": 100})
    places = tuple(Place(f"cuda:{n}", {"cpu": 10, f"cuda:{n}": 70}) for n in (0, 1))
    for model, device in (("a", "cuda:0"), ("b", "cuda:1")):
        fleet.arrive(model)
        launch = fleet.send(Prepared(model, None, places))[0]
        assert isinstance(launch, Launch) and launch.device == device
    assert fleet.core.ledger.held == {"cpu": 20, "cuda:0": 70, "cuda:1": 70}


def test_unknown_need_begins_where_most_is_free() -> None:
    fleet = FleetInHand({"cpu": 1000, "cuda:0": 50, "cuda:1": 100})
    fleet.arrive("a")
    (launch,) = fleet.send(Prepared("a", None, (Place("cuda:0"), Place("cuda:1"))))
    assert isinstance(launch, Launch) and launch.device == "cuda:1"
    report = Report(stage=Stage.STARTING, host_bytes=5, device_bytes=70)
    assert fleet.send(Reported("r1", report)) == [Go("r1")]
    assert fleet.core.ledger.holding("r1") == {"cpu": 5, "cuda:1": 70}


def test_fit_says_what_would_happen(fleet: FleetInHand) -> None:
    fleet.ready("a", 60)
    fleet.now += 10
    fits = {
        need: fleet.core.fit("b", (Place("cpu", {"cpu": need}),), "e", fleet.now) for need in (30, 60, 160)
    }
    assert fits[30].fits == "now"
    assert (fits[60].fits, fits[60].would_go) == ("after evictions", ("a",))
    assert fits[160].fits == "never" and fits[160].reason is not None
    assert fleet.core.fit("a", (), "e", fleet.now).fits == "loaded"
    assert fleet.core.fit("c", (Place("cpu"),), "e", fleet.now).fits == "unknown"
    assert fleet.core.models["a"].state is State.READY


def test_loaded_ahead_counts_too(fleet: FleetInHand) -> None:
    fleet.arrive("a", Want.LOADED)
    fleet.prepared("a", 60)
    assert fleet.report("r1", Stage.READY)[-1] == Grant(1, "r1")
    assert fleet.core.ledger.free("cpu") == 40


def test_zygote_of_the_same_engine_goes_when_nothing_else_helps(fleet: FleetInHand) -> None:
    own = SpareZygote(memory={"cpu": 30}, rate=9.0, cold_cost_s=9.0, last_use_s=fleet.now)
    fleet.ready("a", 40)
    fleet.send(Spare({"": own}))
    fleet.arrive("b")
    assert [e for e in fleet.prepared("b", 65) if isinstance(e, Evicted)] == [Evicted("a", "r1", "b")]
    fleet.exited("r1")
    fleet.report("r2", Stage.READY)
    fleet.now += 5
    fleet.send(Release(fleet.tickets))
    fleet.arrive("c")
    effects = fleet.prepared("c", 80)
    assert StopZygote("") in effects
    fleet.exited("r2")
    assert fleet.send(Spare({})) == [Go("r3")]
