"""The fleet's core against a simulated world: whatever happens, in whatever order, the rules hold.

The machine plays clients, downloads, processes and time. After every step it checks what the core asked
for; at the end it lets the world run on and checks that nobody was forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ekiben.errors import EngineNotInstalled, FetchFailed
from ekiben.fleet.core import FleetCore
from ekiben.fleet.events import (
    Arrive,
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
    Stop,
    Terminate,
    Tick,
    Want,
    Withdraw,
)
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Report, Stage

MODELS = ("a", "b", "c")
KEEP_ALIVE_S = {"a": 0.0, "b": 30.0, "c": float("inf")}
DRAIN_S = 20.0
START_TIMEOUT_S = 100.0


@dataclass
class World:
    """What the core's effects did outside."""

    preparing: set[str] = field(default_factory=set)
    processes: dict[str, str] = field(default_factory=dict)
    """Replica id to model."""
    ready: set[str] = field(default_factory=set)
    terminated: set[str] = field(default_factory=set)
    killed: set[str] = field(default_factory=set)
    open: dict[int, tuple[str, Want]] = field(default_factory=dict)
    """Tickets without an answer."""
    leases: dict[int, str] = field(default_factory=dict)
    """Ticket to replica id."""
    stop_asked: set[str] = field(default_factory=set)
    """Models whose requests may be cut off after the drain time."""


class FleetMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.core = FleetCore(start_timeout_s=START_TIMEOUT_S, drain_s=DRAIN_S, max_waiting=5)
        self.now = 0.0
        self.numbers = 0
        self.world = World()
        self.down = False

    # The world acts

    @rule(model=st.sampled_from(MODELS), want=st.sampled_from((Want.LEASE, Want.LOADED, Want.WEIGHTS)))
    def arrive(self, model: str, want: Want) -> None:
        self.numbers += 1
        self.world.open[self.numbers] = (model, want)
        self.send(Arrive(self.numbers, model, want, KEEP_ALIVE_S[model]))

    @precondition(lambda self: self.world.open)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.world.open)))
        del self.world.open[ticket]
        self.send(Withdraw(ticket))

    @precondition(lambda self: self.world.leases)
    @rule(data=st.data(), died=st.booleans())
    def release(self, data: st.DataObject, died: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.world.leases)))
        del self.world.leases[ticket]
        self.send(Release(ticket, died))

    @precondition(lambda self: self.world.preparing)
    @rule(data=st.data(), outcome=st.sampled_from(("ok", "ok", "news", "fetch", "engine")))
    def prepare(self, data: st.DataObject, outcome: str) -> None:
        model = data.draw(st.sampled_from(sorted(self.world.preparing)))
        if outcome == "news":
            self.send(Preparing(model, 0.5, None))
            return
        self.world.preparing.discard(model)
        error = {"fetch": FetchFailed("no"), "engine": EngineNotInstalled("no")}.get(outcome)
        self.send(Prepared(model, error))

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data(), stage=st.sampled_from((Stage.STARTING, Stage.LOADING, Stage.READY)))
    def report(self, data: st.DataObject, stage: Stage) -> None:
        replica = data.draw(st.sampled_from(sorted(self.world.processes)))
        if replica in self.world.ready:
            return
        if stage is Stage.READY and replica not in self.world.terminated:
            self.world.ready.add(replica)
        self.send(Reported(replica, Report(stage=stage)))

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data())
    def exit(self, data: st.DataObject) -> None:
        """Asked to or not: processes die."""
        self.end(data.draw(st.sampled_from(sorted(self.world.processes))))

    @rule(model=st.sampled_from(MODELS))
    def stop(self, model: str) -> None:
        self.numbers += 1
        self.world.open[self.numbers] = (model, Want.COLD)
        self.world.stop_asked.add(model)
        self.send(Stop(self.numbers, model))

    @rule(seconds=st.sampled_from((0.0, 0.5, 5.0, 31.0, 200.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @precondition(lambda self: not self.down)
    @rule(really=st.sampled_from((False,) * 9 + (True,)))
    def shut_down(self, really: bool) -> None:
        if really:
            self.down = True
            self.world.stop_asked |= set(MODELS)
            self.send(Shutdown())

    # What the core may ask for

    def send(self, event: Event) -> None:
        for effect in self.core.handle(event, self.now):
            match effect:
                case Prepare(model):
                    assert model not in self.world.preparing, "two preparations of one model"
                    assert not self.down, "nothing is begun after the end"
                    self.world.preparing.add(model)
                case Launch(model, replica):
                    assert model not in self.world.processes.values(), "two processes of one model"
                    assert not self.down, "nothing is started after the end"
                    self.world.processes[replica] = model
                case Grant(ticket, replica_id):
                    self.granted(ticket, replica_id)
                case Fail(ticket):
                    assert ticket in self.world.open, "an answer to nobody, or a second one"
                    del self.world.open[ticket]
                case Terminate(replica):
                    self.terminate(replica)
                case Kill(replica):
                    assert replica not in self.world.ready or replica in self.world.terminated
                    self.world.killed.add(replica)

    def granted(self, ticket: int, replica_id: str | None) -> None:
        assert ticket in self.world.open, "an answer to nobody, or a second one"
        model, want = self.world.open.pop(ticket)
        if want is Want.COLD:
            assert model not in self.world.processes.values(), "stopped means that no process is left"
        if want is Want.LEASE:
            assert replica_id in self.world.ready, "a lease on a replica that is not ready"
            assert replica_id not in self.world.terminated, "a lease on a replica that is going"
            self.world.leases[ticket] = replica_id

    def terminate(self, replica: str) -> None:
        assert replica in self.world.processes, "ending what does not run"
        model = self.world.processes[replica]
        busy = replica in self.world.leases.values()
        assert not busy or model in self.world.stop_asked, "a busy replica was stopped unasked"
        self.world.terminated.add(replica)

    def end(self, replica: str) -> None:
        model = self.world.processes.pop(replica)
        self.world.ready.discard(replica)
        self.world.leases = {t: r for t, r in self.world.leases.items() if r != replica}
        if not self.down:
            self.world.stop_asked.discard(model)
        self.send(Exited(replica, "ended"))

    # What must hold after every step

    @invariant()
    def states_tell_the_truth(self) -> None:
        for name, model in self.core.models.items():
            running = name in self.world.processes.values()
            assert running == (model.replica is not None)
            assert (model.state is State.READY) <= running
            assert model.preparing == (name in self.world.preparing)
            waiting = {t for t, (m, _) in self.world.open.items() if m == name}
            assert set(model.waiting) == waiting

    @invariant()
    def nobody_waits_without_something_under_way(self) -> None:
        for model, _ in self.world.open.values():
            assert model in self.world.preparing or model in self.world.processes.values()

    def teardown(self) -> None:
        """From wherever it is, a world that does its part answers everybody."""
        for _ in range(200):
            if not self.world.open:
                return
            for model in sorted(self.world.preparing):
                self.world.preparing.discard(model)
                self.send(Prepared(model))
            for replica in sorted(self.world.processes):
                if replica in self.world.terminated | self.world.killed:
                    self.end(replica)
                elif replica not in self.world.ready:
                    self.world.ready.add(replica)
                    self.send(Reported(replica, Report(stage=Stage.READY)))
            self.now += DRAIN_S
            self.send(Tick())
        raise AssertionError(f"never answered: {self.world.open}")


FleetMachine.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFleet = FleetMachine.TestCase
