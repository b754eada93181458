"""The fleet's core in simulated worlds: whatever happens, in whatever order, the rules hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.unit.fleet_world import STEPS, FleetWorld, play

T = TypeVar("T")


class FleetMachine(RuleBasedStateMachine):
    """A failure is told as the shortest story that leads to it."""

    @initialize()
    def begin(self) -> None:
        self.world = FleetWorld()

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        def choose(options: Sequence[T], /) -> T:
            return data.draw(st.sampled_from(options))

        self.world.act(choose)

    def teardown(self) -> None:
        self.world.finish()


FleetMachine.TestCase.settings = settings(
    max_examples=500,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFleet = FleetMachine.TestCase


def test_many_more_lives_by_lot() -> None:
    """Without the search for what is interesting, which costs most of the time."""
    play(10_000, seed=0)
