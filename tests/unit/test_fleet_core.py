"""The fleet's core as a pure function: events in, effects out, time given."""

from __future__ import annotations

import math

import pytest

from ekiben.errors import (
    EngineNotInstalled,
    FetchFailed,
    LoadFailed,
    ModelNotReady,
    QueueFull,
    ReplicaDied,
    ShuttingDown,
)
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import (
    Arrive,
    Changed,
    Effect,
    Event,
    Exited,
    Fail,
    Grant,
    Kill,
    Launch,
    Prepare,
    Prepared,
    Preparing,
    Release,
    Reported,
    Shutdown,
    Started,
    StartFailed,
    Stop,
    Terminate,
    Tick,
    Want,
    Withdraw,
)
from ekiben.fleet.decisions.leaving import TERMINATE_GRACE_S
from ekiben.fleet.decisions.life import STRIKES_BEFORE_BACKOFF
from ekiben.fleet.decisions.requests import SUSPECT_S
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.decisions.state import Rules
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Report, Stage
from tests.unit.fleet_in_hand import PlainPolicy

M = "m"


class Fleet:
    """A core with a clock in the hand; effects that only tell something are left out of what it returns."""

    def __init__(self, *, keep_alive_s: float = 300.0, max_waiting: int = 10) -> None:
        self.core = FleetCore(
            Rules(start_timeout_s=60, drain_s=30, max_waiting=max_waiting), policy=PlainPolicy()
        )
        self.now = 1000.0
        self.keep_alive_s = keep_alive_s
        self.tickets = 0

    def send(self, event: Event) -> list[Effect]:
        return [
            e for e in self.core.handle(event, self.now) if not isinstance(e, (Changed, Started, StartFailed))
        ]

    def arrive(self, want: Want = Want.LEASE) -> list[Effect]:
        self.tickets += 1
        return self.send(Arrive(self.tickets, M, want, Terms(keep_alive_s=self.keep_alive_s)))

    def later(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.send(Tick())

    def report(self, stage: Stage, replica: str = "r1", error: str | None = None) -> list[Effect]:
        return self.send(Reported(replica, Report(stage=stage, error=error)))

    def make_ready(self, replica: str = "r1") -> list[Effect]:
        self.send(Prepared(M))
        self.report(Stage.STARTING, replica)
        self.report(Stage.LOADING, replica)
        return self.report(Stage.READY, replica)

    def state(self) -> State:
        return self.core.models[M].state


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_first_request_starts_and_is_granted_when_ready(fleet: Fleet) -> None:
    assert fleet.arrive() == [Prepare(M)]
    assert fleet.state() is State.QUEUED
    assert fleet.send(Prepared(M)) == [Launch(M, "r1")]
    fleet.report(Stage.LOADING)
    assert fleet.state() is State.LOADING
    assert fleet.report(Stage.READY) == [Grant(1, "r1")]
    assert fleet.state() is State.READY


def test_many_requests_share_one_start(fleet: Fleet) -> None:
    effects = [effect for _ in range(8) for effect in fleet.arrive()]
    assert effects == [Prepare(M)]
    assert fleet.make_ready() == [Grant(ticket, "r1") for ticket in range(1, 9)]


def test_request_to_ready_model_is_granted_at_once(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    assert fleet.arrive() == [Grant(2, "r1")]


def test_idle_model_is_unloaded_after_its_time_and_not_before(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    assert fleet.later(10_000) == [], "busy, however long"
    fleet.send(Release(1))
    assert fleet.core.next_wake() == fleet.now + 300
    assert fleet.later(299) == []
    assert fleet.later(1) == [Terminate("r1")]
    assert fleet.state() is State.DRAINING
    fleet.send(Exited("r1", "exit code 0"))
    assert fleet.state() is State.COLD
    assert fleet.core.next_wake() is None


def test_keep_alive_zero_unloads_when_the_last_request_ends() -> None:
    fleet = Fleet(keep_alive_s=0)
    fleet.arrive()
    fleet.arrive()
    fleet.make_ready()
    assert fleet.send(Release(1)) == []
    assert fleet.send(Release(2)) == [Terminate("r1")]


def test_keep_alive_never_stays() -> None:
    fleet = Fleet(keep_alive_s=math.inf)
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1))
    assert fleet.core.next_wake() is None
    assert fleet.later(1e9) == []


def test_model_loaded_ahead_is_not_unloaded_before_anybody_can_use_it() -> None:
    fleet = Fleet(keep_alive_s=0)
    fleet.arrive(Want.LOADED)
    assert fleet.make_ready() == [Grant(1, "r1")]
    assert fleet.later(59) == []
    assert fleet.later(1) == [Terminate("r1")]


def test_releasing_twice_is_harmless(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1))
    assert fleet.send(Release(1)) == []
    assert set(fleet.core.models[M].replicas["r1"].leases) == {2}


def test_request_while_draining_waits_and_gets_the_next_replica() -> None:
    fleet = Fleet(keep_alive_s=0)
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1))
    assert fleet.arrive() == [], "the old process has to end first"
    assert fleet.send(Exited("r1", "")) == [Prepare(M)]
    assert fleet.make_ready("r2") == [Grant(2, "r2")]


def test_start_survives_the_request_that_asked_for_it(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.send(Withdraw(1))
    assert fleet.send(Prepared(M)) == [Launch(M, "r1")]
    assert fleet.report(Stage.READY) == []
    assert fleet.state() is State.READY


def test_weights_alone_start_no_process(fleet: Fleet) -> None:
    assert fleet.arrive(Want.WEIGHTS) == [Prepare(M)]
    fleet.send(Preparing(M, 0.5, 3.0))
    assert fleet.state() is State.FETCHING
    assert fleet.send(Prepared(M)) == [Grant(1, None)]
    assert fleet.state() is State.COLD


def test_request_joins_a_fetch_under_way(fleet: Fleet) -> None:
    fleet.arrive(Want.WEIGHTS)
    assert fleet.arrive() == []
    assert fleet.send(Prepared(M)) == [Grant(1, None), Launch(M, "r1")]


def test_failed_fetch_fails_the_waiting_and_backs_off(fleet: Fleet) -> None:
    fleet.arrive()
    error = FetchFailed("no such package")
    assert fleet.send(Prepared(M, error)) == [Fail(1, error)]
    assert fleet.state() is State.FAILED
    (refused,) = fleet.arrive()
    assert isinstance(refused, Fail)
    assert isinstance(refused.error, FetchFailed)
    assert refused.error.headers()["retry-after"] == "1"
    fleet.now += 1
    assert fleet.arrive() == [Prepare(M)]


def test_backoff_doubles_and_a_success_resets_it(fleet: Fleet) -> None:
    pauses = []
    for _ in range(8):
        fleet.arrive()
        fleet.send(Prepared(M, FetchFailed("no")))
        failure = fleet.core.models[M].failure
        assert failure is not None
        pauses.append(failure.retry_at - fleet.now)
        fleet.now = failure.retry_at
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    fleet.arrive()
    fleet.make_ready()
    assert fleet.core.models[M].failure is None
    assert fleet.core.models[M].failures == 0


def test_missing_engine_is_looked_for_again_at_once(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.send(Prepared(M, EngineNotInstalled("install it")))
    assert fleet.arrive() == [Prepare(M)]


def test_load_that_fails_tells_why(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.send(Prepared(M))
    fleet.report(Stage.FAILED, error="not a GGUF file")
    (failed,) = fleet.send(Exited("r1", "exit code 3"))
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, LoadFailed)
    assert "not a GGUF file" in failed.error.message


def test_start_that_hangs_is_ended(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.send(Prepared(M))
    assert fleet.core.next_wake() == fleet.now + 60
    assert fleet.later(60) == [Kill("r1")]
    (failed,) = fleet.send(Exited("r1", "SIGKILL"))
    assert isinstance(failed, Fail)
    assert "not ready after 60 s" in failed.error.message


def test_process_that_ignores_the_request_to_end_is_ended(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1))
    fleet.later(300)
    assert fleet.later(TERMINATE_GRACE_S) == [Kill("r1")]


def test_death_of_a_ready_replica_is_followed_by_a_start(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    assert fleet.send(Exited("r1", "SIGKILL")) == []
    assert fleet.state() is State.COLD
    assert fleet.send(Release(1)) == [], "its lease died with it"
    assert fleet.arrive() == [Prepare(M)]


def test_replica_that_broke_off_gets_no_request_until_it_is_seen_to_live(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1, died=True))
    assert fleet.arrive() == []
    assert fleet.core.next_wake() == fleet.now + SUSPECT_S
    assert fleet.later(SUSPECT_S) == [Grant(2, "r1")]


def test_request_that_meets_a_dying_replica_gets_the_next_one(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Release(1, died=True))
    fleet.arrive()
    assert fleet.send(Exited("r1", "SIGKILL")) == [Prepare(M)]
    assert fleet.make_ready("r2") == [Grant(2, "r2")]


def test_deaths_in_a_row_back_off(fleet: Fleet) -> None:
    for strike in range(1, STRIKES_BEFORE_BACKOFF + 1):
        fleet.arrive()
        fleet.make_ready(f"r{strike}")
        fleet.send(Exited(f"r{strike}", "SIGSEGV"))
    assert fleet.state() is State.FAILED
    (refused,) = fleet.arrive()
    assert isinstance(refused, Fail)
    assert isinstance(refused.error, ReplicaDied)
    assert "SIGSEGV" in refused.error.message


def test_queue_is_bounded() -> None:
    fleet = Fleet(max_waiting=2)
    fleet.arrive()
    fleet.arrive()
    (refused,) = fleet.arrive()
    assert isinstance(refused, Fail)
    assert isinstance(refused.error, QueueFull)


def test_stop_lets_requests_end(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    assert fleet.send(Stop(99, M)) == []
    assert fleet.state() is State.DRAINING
    assert fleet.send(Release(1)) == [Terminate("r1")]
    assert fleet.send(Exited("r1", "")) == [Grant(99, None)]


def test_stop_does_not_wait_for_ever(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Stop(99, M))
    assert fleet.core.next_wake() == fleet.now + 30
    assert fleet.later(30) == [Terminate("r1")]


def test_stop_of_a_start_turns_the_waiting_away(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.send(Prepared(M))
    failed, terminated = fleet.send(Stop(99, M))
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, ModelNotReady)
    assert terminated == Terminate("r1")
    assert fleet.send(Exited("r1", "")) == [Grant(99, None)]
    assert fleet.state() is State.COLD


def test_stop_of_a_cold_model_is_granted_at_once(fleet: Fleet) -> None:
    assert fleet.send(Stop(99, M)) == [Grant(99, None)]


def test_shutdown_refuses_and_drains(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    assert fleet.send(Shutdown()) == []
    (refused,) = fleet.arrive()
    assert isinstance(refused, Fail)
    assert isinstance(refused.error, ShuttingDown)
    assert fleet.send(Release(1)) == [Terminate("r1")]
    fleet.send(Exited("r1", ""))
    assert fleet.core.quiet


def test_late_reports_change_nothing(fleet: Fleet) -> None:
    fleet.arrive()
    fleet.make_ready()
    fleet.send(Stop(99, M))
    fleet.report(Stage.READY)
    assert fleet.state() is State.DRAINING
    assert fleet.report(Stage.READY, "r77") == []
    assert fleet.send(Exited("r77", "")) == []
