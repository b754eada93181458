"""Several replicas of a model: how many, who gets which request, and how a new spec takes over."""

from __future__ import annotations

import pytest

from ekiben.errors import FetchFailed
from ekiben.fleet.decisions.events import (
    Adopted,
    Answered,
    Exited,
    Fail,
    FirstByte,
    Grant,
    Keep,
    Kill,
    Launch,
    Prepare,
    Prepared,
    Release,
    Replace,
    Silent,
    Started,
    Stop,
    Terminate,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.routing import REMEMBERED, Prefixes
from ekiben.fleet.decisions.scaling import SCALE_IN_S, SCALE_OUT_S, Terms, can_spare_one, needed
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Stage
from tests.unit.fleet_in_hand import FleetInHand

M = "m"
TWO = Terms(max_replicas=2, concurrency=1)


@pytest.fixture
def fleet() -> FleetInHand:
    return FleetInHand({"cpu": 100})


@pytest.fixture
def pair(fleet: FleetInHand) -> FleetInHand:
    """With two ready replicas, each with a request: tickets 1 and 2."""
    fleet.terms[M] = TWO
    fleet.arrive(M)
    fleet.prepared(M, 10)
    fleet.report("r1", Stage.READY)
    fleet.arrive(M)
    fleet.later(SCALE_OUT_S)
    fleet.prepared(M, 10)
    fleet.report("r2", Stage.READY)
    fleet.send(Release(2))
    fleet.arrive(M)
    assert fleet.core.replicas["r2"].in_flight == 1
    return fleet


def test_crowd_gets_one_more_replica_after_a_moment(fleet: FleetInHand) -> None:
    fleet.terms[M] = TWO
    fleet.ready(M, 10)
    fleet.arrive(M)
    assert fleet.later(10) == [], "one is what it is meant for"
    fleet.arrive(M)
    assert fleet.later(SCALE_OUT_S - 0.1) == []
    assert fleet.later(0.1) == [Prepare(M)]
    assert fleet.prepared(M, 10) == [Launch(M, "r2", "cpu", go=True)]


def test_never_more_replicas_than_allowed(pair: FleetInHand) -> None:
    for _ in range(5):
        pair.arrive(M)
    assert pair.later(10) == []


def test_scaling_out_takes_free_memory_only(fleet: FleetInHand) -> None:
    fleet.terms[M] = TWO
    fleet.ready("other", 70)
    fleet.ready(M, 20)
    fleet.arrive(M)
    fleet.arrive(M)
    assert fleet.later(SCALE_OUT_S) == [Prepare(M)]
    assert fleet.prepared(M, 20) == []
    assert fleet.core.models["other"].state is State.READY
    assert len(fleet.core.models[M].replicas) == 1


def test_replica_that_is_not_needed_goes_after_a_while(pair: FleetInHand) -> None:
    for ticket in list(pair.core.models[M].replicas["r2"].leases):
        pair.send(Release(ticket))
    pair.send(Release(1))
    assert pair.later(SCALE_IN_S - 1) == []
    assert pair.later(1) == [Terminate("r2")]


def test_least_number_is_started_and_kept(fleet: FleetInHand) -> None:
    terms = fleet.terms[M] = Terms(keep_alive_s=10, min_replicas=1)
    assert fleet.send(Keep(M, terms)) == [Prepare(M)]
    fleet.prepared(M, 10)
    fleet.report("r1", Stage.READY)
    assert fleet.later(10_000) == []
    assert fleet.exited("r1", "SIGKILL") == [Prepare(M)]


def test_least_number_that_cannot_start_is_tried_again_in_time(fleet: FleetInHand) -> None:
    fleet.send(Keep(M, Terms(min_replicas=1)))
    assert fleet.send(Prepared(M, FetchFailed("no network"))) == []
    assert Prepare(M) in fleet.later(10)


def test_stopped_model_stays_stopped_whatever_its_least_number(fleet: FleetInHand) -> None:
    fleet.terms[M] = Terms(min_replicas=1)
    fleet.ready(M, 10)
    fleet.send(Stop(99, M))
    assert fleet.exited("r1") == [Grant(99, None)]
    assert fleet.later(1000) == []
    assert fleet.arrive(M) == [Prepare(M)]


def test_request_goes_to_the_replica_with_fewest_in_flight(pair: FleetInHand) -> None:
    pair.send(Release(1))
    (grant,) = pair.arrive(M)
    assert grant == Grant(pair.tickets, "r1")


def test_conversation_returns_to_the_replica_that_knows_it(pair: FleetInHand) -> None:
    for ticket in (1, 3):
        pair.send(Release(ticket))
    (first,) = pair.arrive(M, prefix=[11])
    pair.send(Release(pair.tickets))
    (other,) = pair.arrive(M, prefix=[77])
    pair.send(Release(pair.tickets))
    assert isinstance(first, Grant) and isinstance(other, Grant)
    for _ in range(3):
        (again,) = pair.arrive(M, prefix=[11, 12, 13])
        pair.send(Release(pair.tickets))
        assert isinstance(again, Grant) and again.replica_id == first.replica_id


def test_prefixes_are_forgotten_oldest_first() -> None:
    prefixes = Prefixes()
    prefixes.note(range(REMEMBERED + 1))
    assert prefixes.match([0]) == 0
    assert prefixes.match([REMEMBERED - 1, REMEMBERED, 10**9]) == 2


def test_replica_that_does_not_answer_gets_nothing_until_it_does(pair: FleetInHand) -> None:
    pair.send(Silent("r1"))
    for _ in range(3):
        (grant,) = pair.arrive(M)
        assert grant == Grant(pair.tickets, "r2")
    pair.send(Answered("r1"))
    (grant,) = pair.arrive(M)
    assert grant == Grant(pair.tickets, "r1")


def test_replica_that_hangs_is_ended_and_its_requests_with_it(fleet: FleetInHand) -> None:
    fleet.ready(M, 10)
    fleet.arrive(M)
    fleet.send(Silent("r1"))
    assert fleet.arrive(M) == []
    assert fleet.later(29) == []
    assert fleet.later(1) == [Kill("r1")]
    assert fleet.send(Exited("r1", "SIGKILL", killed=True)) == [Prepare(M)]


def test_new_spec_takes_over_without_a_gap(fleet: FleetInHand) -> None:
    fleet.ready(M, 10)
    fleet.arrive(M)
    running = fleet.tickets
    assert fleet.send(Replace(M, Terms())) == [Prepare(M)]
    fleet.prepared(M, 10)
    (grant,) = fleet.arrive(M)
    assert grant == Grant(fleet.tickets, "r1"), "the old one serves until then"
    fleet.send(Release(fleet.tickets))
    assert Terminate("r1") not in fleet.report("r2", Stage.READY), "it still has a request"
    (grant,) = fleet.arrive(M)
    assert grant == Grant(fleet.tickets, "r2")
    assert fleet.send(Release(running))[-1] == Terminate("r1")


def test_new_spec_that_does_not_fit_beside_the_old_one_follows_it(fleet: FleetInHand) -> None:
    fleet.ready(M, 60)
    fleet.arrive(M)
    running = fleet.tickets
    fleet.send(Replace(M, Terms()))
    fleet.prepared(M, 70)
    assert fleet.core.replicas["r1"].state is State.DRAINING
    assert fleet.arrive(M) == [], "held, not failed"
    waiting = fleet.tickets
    assert fleet.send(Release(running))[-1] == Terminate("r1")
    fleet.exited("r1")
    assert Grant(waiting, "r2") in fleet.report("r2", Stage.READY)


def test_new_spec_that_does_not_start_leaves_the_old_one_serving(fleet: FleetInHand) -> None:
    fleet.ready(M, 10)
    fleet.send(Replace(M, Terms()))
    fleet.send(Prepared(M, FetchFailed("no such file")))
    (grant,) = fleet.arrive(M)
    assert grant == Grant(fleet.tickets, "r1")


def test_new_spec_during_a_start_begins_it_anew(fleet: FleetInHand) -> None:
    fleet.arrive(M)
    fleet.prepared(M, 10)
    assert fleet.send(Replace(M, Terms())) == [Prepare(M), Terminate("r1")]
    fleet.prepared(M, 10)
    assert fleet.report("r2", Stage.READY) == [Grant(1, "r2")]


def test_new_spec_during_a_fetch_is_the_one_that_is_prepared(fleet: FleetInHand) -> None:
    fleet.arrive(M)
    assert fleet.send(Replace(M, Terms())) == []
    assert fleet.prepared(M, 10) == [Prepare(M)], "what was prepared is of the old spec"
    assert fleet.prepared(M, 10) == [Launch(M, "r1", "cpu", go=True)]


def test_adopted_replica_serves_at_once(fleet: FleetInHand) -> None:
    fleet.send(Adopted(M, Terms(), "old-7", Place("cpu", {"cpu": 30}), "e"))
    assert fleet.core.ledger.free("cpu") == 70
    assert fleet.arrive(M) == [Grant(1, "old-7")]


def test_stages_of_a_start_add_up(fleet: FleetInHand) -> None:
    fleet.ready("other", 60)
    began = fleet.now
    fleet.arrive(M)
    fleet.now += 1
    fleet.prepared(M, 60)
    fleet.now += 2
    fleet.exited("r1")
    fleet.now += 4
    fleet.report("r2", Stage.LOADING)
    fleet.now += 8
    fleet.report("r2", Stage.READY)
    fleet.now += 16
    (started,) = fleet.send(FirstByte(fleet.tickets))
    assert isinstance(started, Started)
    assert started.stages_s == {
        "queued": 1,
        "evicting": 2,
        "starting": 4,
        "loading": 8,
        "first_token": 16,
    }
    assert sum(started.stages_s.values()) == fleet.now - began


def test_number_of_replicas_follows_demand() -> None:
    terms = Terms(min_replicas=1, max_replicas=3, concurrency=4)
    assert [needed(terms, demand) for demand in (0, 1, 4, 5, 9, 100)] == [1, 1, 1, 2, 3, 3]
    assert not can_spare_one(terms, demand=4, replicas=2)
    assert can_spare_one(terms, demand=3, replicas=2)
    assert not can_spare_one(terms, demand=0, replicas=1)


def test_what_only_the_new_spec_has_waits_for_its_replica(fleet: FleetInHand) -> None:
    """An adapter that was added just now: the old replica would not know it."""
    old = fleet.ready(M, 10)
    fleet.send(Replace(M, Terms()))
    assert fleet.arrive(M, fresh=True) == []
    assert fleet.arrive(M) == [Grant(3, old)], "everybody else is served by the old one"
    (launch,) = fleet.prepared(M, 10)
    assert isinstance(launch, Launch)
    effects = fleet.report(launch.replica_id, Stage.READY)
    assert Grant(2, launch.replica_id) in effects
    assert fleet.arrive(M, fresh=True) == [Grant(4, launch.replica_id)]


def test_a_new_spec_that_does_not_start_fails_only_those_who_need_it(fleet: FleetInHand) -> None:
    old = fleet.ready(M, 10)
    fleet.send(Replace(M, Terms()))
    fleet.arrive(M, fresh=True)
    (failed,) = fleet.send(Prepared(M, FetchFailed("no such adapter")))
    assert isinstance(failed, Fail) and failed.ticket == 2
    (again,) = fleet.arrive(M, fresh=True)
    assert isinstance(again, Fail), "it is not tried with every request"
    assert fleet.arrive(M) == [Grant(4, old)]
    assert fleet.core.models[M].state is State.READY
