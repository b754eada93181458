"""A simulated world around the fleet's core: clients, downloads, processes, devices and time.

`act` does one thing that may happen, as chosen by whoever calls, and checks that what the core asked for
keeps the rules. `python -m tests.unit.fleet_world CASES [SEED]` plays many lives of such a world by lot;
a run of the tests plays some with hypothesis, which finds the shortest story behind a failure.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ekiben.errors import EngineError, EngineNotInstalled, FetchFailed
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import (
    Adopted,
    Answered,
    Arrive,
    Budgets,
    Event,
    Evicted,
    Exited,
    Fail,
    FirstByte,
    Go,
    Grant,
    Keep,
    Kill,
    Launch,
    Measured,
    Prepare,
    Prepared,
    Preparing,
    Release,
    Replace,
    Reported,
    Shutdown,
    Silent,
    Sleep,
    Spare,
    SpareZygote,
    Stop,
    StopZygote,
    Terminate,
    Tick,
    Wake,
    Want,
    Withdraw,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.scaling import Terms
from ekiben.fleet.decisions.state import Purpose, Rules
from ekiben.fleet.types import State
from ekiben.runtime.protocol import Report, Stage
from tests.unit.fleet_in_hand import PlainPolicy

BUDGET = 100
GPUS = ("cuda:0", "cuda:1", "cuda:2")
GPU_BUDGET = 50
WEIGHTS = (
    ("arrive", 5),
    ("arrive with idle work", 2),
    ("wait", 4),
    ("prepare", 4),
    ("go on", 5),
    ("release", 3),
    ("begin to answer", 1),
    ("withdraw", 1),
    ("exit", 1),
    ("hang or recover", 1),
    ("measure", 1),
    ("stop", 1),
    ("replace", 1),
    ("prewarm", 1),
    ("zygote", 1),
    ("change budget", 1),
    ("shut down", 1),
    ("crash and restart", 1),
)
"""How often each thing happens."""
OUTCOMES = ("ok", "ok", "ok", "news", "fetch", "engine")
RARELY = (False, False, False, False, True)
NEEDS = {
    **{"small": 30, "quick": 40, "large": 80, "many": 20, "pinned": 25, "never": 150, "sleeper": 50},
    **{"narrow": 5, "wide": 5, "broad": 10},
}
"""Of the host."""
GPU_NEEDS = {"narrow": 30, "wide": 30, "broad": 45}
"""Of each of their GPUs."""
SPREADS = {
    "narrow": GPUS,
    "wide": ("cuda:0+cuda:1", "cuda:0+cuda:2", "cuda:1+cuda:2"),
    "broad": ("cuda:0+cuda:1+cuda:2",),
}
TERMS = {
    "small": Terms(keep_alive_s=30.0),
    "quick": Terms(keep_alive_s=0.0),
    "large": Terms(keep_alive_s=None),
    "many": Terms(keep_alive_s=60.0, max_replicas=3, concurrency=1),
    "pinned": Terms(keep_alive_s=float("inf"), pinned=True),
    "never": Terms(),
    "sleeper": Terms(keep_alive_s=20.0),
    "narrow": Terms(keep_alive_s=40.0, max_replicas=2, concurrency=1),
    "wide": Terms(keep_alive_s=30.0),
    "broad": Terms(keep_alive_s=50.0),
}
MODELS = sorted(NEEDS)
KNOWN = {"small", "many", "never", "wide"}
"""Models whose need is known before their first start; the others tell it."""
RULES = Rules(start_timeout_s=100.0, drain_s=20.0, max_waiting=5, w_max_s=3.0, hang_s=30.0)
WANTS = (*[Want.LEASE] * 4, Want.LOADED, Want.WEIGHTS)
MANY_TICKS = 200
STEPS = 40
"""Of one life."""

T = TypeVar("T")


class Choose(Protocol):
    def __call__(self, options: Sequence[T], /) -> T: ...


ESTIMATES = {
    model: Report(stage=Stage.STARTING, host_bytes=need, device_bytes=GPU_NEEDS.get(model))
    for model, need in NEEDS.items()
}
READY = {
    model: estimate.model_copy(update={"stage": Stage.READY, "sleeps": model == "sleeper"})
    for model, estimate in ESTIMATES.items()
}
SLEPT = Report(stage=Stage.SLEPT, host_bytes=5)


def memory_of(model: str, device: str) -> dict[str, int]:
    """What a loaded replica holds, by device."""
    held = {"cpu": NEEDS[model]}
    return held if device == "cpu" else held | dict.fromkeys(device.split("+"), GPU_NEEDS[model])


def _hurries(want: Want) -> bool:
    return want in (Want.LEASE, Want.LOADED)


def places_of(model: str) -> tuple[Place, ...]:
    devices = SPREADS.get(model, ("cpu",))
    return tuple(Place(device, memory_of(model, device) if model in KNOWN else None) for device in devices)


@dataclass
class Process:
    """One that the core asked for."""

    model: str
    device: str
    generation: int
    born: float
    go: bool = False
    reported: bool = False
    ready: bool = False
    silent: bool = False
    told_to_sleep: bool = False
    slept: bool = False
    terminated: bool = False
    killed: bool = False


@dataclass
class Outside:
    """What the core's effects did outside."""

    preparing: set[str] = field(default_factory=set)
    processes: dict[str, Process] = field(default_factory=dict)
    open: dict[int, tuple[str, Want]] = field(default_factory=dict)
    """Tickets without an answer."""
    fresh: set[int] = field(default_factory=set)
    """Tickets for a replica of the newest spec."""
    idle: set[int] = field(default_factory=set)
    """Tickets for work that nobody waits for."""
    leases: dict[int, str] = field(default_factory=dict)
    """Ticket to replica id."""
    stopping: dict[int, set[str]] = field(default_factory=dict)
    """Ticket to the replicas that there were when a stop was asked for."""
    stop_asked: dict[str, float] = field(default_factory=dict)
    """When it was said that a model's requests may be cut off after the drain time."""
    generations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, 0))
    zygotes: set[str] = field(default_factory=set)
    unwanted_zygotes: set[str] = field(default_factory=set)
    """Asked to go, and not gone yet."""

    def held(self, device: str) -> int:
        """By zygotes, and by processes that were told to load, as their models' needs have it."""
        loaded = [process for process in self.processes.values() if process.go]
        held = ({"cpu": 5} if p.slept else memory_of(p.model, p.device) for p in loaded)
        zygotes = 15 * len(self.zygotes) if device == "cpu" else 0
        return zygotes + sum(memory.get(device, 0) for memory in held)


class FleetWorld:
    """One life of a platform on one machine. `choose` picks one of the things that it is given."""

    def __init__(self) -> None:
        self.starts = 0
        self.now = 0.0
        self.numbers = 0
        self.world = Outside()
        self.down = False
        self.budgets = {"cpu": BUDGET} | dict.fromkeys(GPUS, GPU_BUDGET)
        self.core = self.make_core()
        self.actions: dict[str, Callable[[Choose], None]] = {
            "arrive": self.arrive,
            "arrive with idle work": self.arrive_idle,
            "wait": self.wait,
            "prepare": self.prepare,
            "go on": self.go_on,
            "release": self.release,
            "begin to answer": self.begin_to_answer,
            "withdraw": self.withdraw,
            "exit": self.exit,
            "hang or recover": self.hang_or_recover,
            "measure": self.measure,
            "stop": self.stop,
            "replace": self.replace,
            "prewarm": self.prewarm,
            "zygote": self.zygote,
            "change budget": self.change_budget,
            "shut down": self.shut_down,
            "crash and restart": self.crash_and_restart,
        }

    def make_core(self) -> FleetCore:
        self.starts += 1
        core = FleetCore(RULES, PlainPolicy(), prefix=f"{self.starts}-")
        core.handle(Budgets(self.budgets), self.now)
        return core

    def act(self, choose: Choose) -> None:
        """One thing happens, and the rules hold."""
        self.actions[choose([name for name, weight in WEIGHTS for _ in range(weight)])](choose)
        self.check()

    # What may happen; what cannot, does not

    def arrive(self, choose: Choose) -> None:
        model, want = choose(MODELS), choose(WANTS)
        self.numbers += 1
        self.world.open[self.numbers] = (model, want)
        fresh = want is Want.LEASE and choose([False, False, True])
        if fresh:
            self.world.fresh.add(self.numbers)
        self.send(Arrive(self.numbers, model, want, TERMS[model], (1, 2, self.numbers % 3), fresh))

    def arrive_idle(self, choose: Choose) -> None:
        model = choose(MODELS)
        self.numbers += 1
        self.world.open[self.numbers] = (model, Want.LEASE)
        self.world.idle.add(self.numbers)
        self.send(Arrive(self.numbers, model, Want.LEASE, TERMS[model], idle=True))

    def withdraw(self, choose: Choose) -> None:
        if self.world.open:
            ticket = choose(sorted(self.world.open))
            del self.world.open[ticket]
            self.send(Withdraw(ticket))

    def begin_to_answer(self, choose: Choose) -> None:
        if self.world.leases:
            self.send(FirstByte(choose(sorted(self.world.leases))))

    def release(self, choose: Choose) -> None:
        if self.world.leases:
            ticket = choose(sorted(self.world.leases))
            del self.world.leases[ticket]
            self.send(Release(ticket, choose([False, False, True])))

    def prepare(self, choose: Choose) -> None:
        if not self.world.preparing:
            return
        model, outcome = choose(sorted(self.world.preparing)), choose(OUTCOMES)
        if outcome == "news":
            self.send(Preparing(model, 0.5, None))
            return
        error = {"fetch": FetchFailed("no"), "engine": EngineNotInstalled("no")}.get(outcome)
        self.prepared(model, error)

    def prepared(self, model: str, error: EngineError | None = None) -> None:
        self.world.preparing.discard(model)
        self.send(Prepared(model, error, places_of(model), engine="e"))

    def go_on(self, choose: Choose) -> None:
        """A process comes one step further."""
        if self.world.processes:
            self.step(choose(sorted(self.world.processes)))

    def step(self, replica: str) -> None:
        process = self.world.processes[replica]
        if process.told_to_sleep and not process.slept:
            process.slept = not process.terminated
            self.send(Reported(replica, SLEPT))
            return
        if process.ready or process.slept:
            return
        if not process.reported:
            process.reported = True
            self.send(Reported(replica, Report(stage=Stage.STARTING)))
            self.send(Reported(replica, ESTIMATES[process.model]))
        elif process.go:
            self.send(Reported(replica, Report(stage=Stage.LOADING)))
            process.ready = not process.terminated
            self.send(Reported(replica, READY[process.model]))

    def exit(self, choose: Choose) -> None:
        """Asked to or not: processes die."""
        if not self.world.processes:
            return
        replica = choose(sorted(self.world.processes))
        if choose([False, True]) and not self.world.processes[replica].ready:
            report = Report(stage=Stage.FAILED, error="no memory", out_of_memory=True)
            self.send(Reported(replica, report))
        self.end(replica, killed=choose([False, True]))

    def hang_or_recover(self, choose: Choose) -> None:
        ready = [replica for replica, process in self.world.processes.items() if process.ready]
        if ready:
            replica = choose(sorted(ready))
            process = self.world.processes[replica]
            process.silent = not process.silent
            self.send(Silent(replica) if process.silent else Answered(replica))

    def measure(self, choose: Choose) -> None:
        if self.world.processes:
            replica = choose(sorted(self.world.processes))
            process = self.world.processes[replica]
            self.send(Measured(replica, memory_of(process.model, process.device)))

    def stop(self, choose: Choose) -> None:
        model = choose(MODELS)
        self.numbers += 1
        self.world.open[self.numbers] = (model, Want.COLD)
        self.world.stop_asked[model] = self.now
        self.world.stopping[self.numbers] = {
            replica for replica, process in self.world.processes.items() if process.model == model
        }
        self.send(Stop(self.numbers, model))

    def replace(self, choose: Choose) -> None:
        model = choose(MODELS)
        if model in self.core.models:
            self.world.generations[model] += 1
        self.send(Replace(model, TERMS[model]))

    def prewarm(self, choose: Choose) -> None:
        model = choose(MODELS)
        self.send(Keep(model, TERMS[model], prewarm=True))

    def zygote(self, choose: Choose) -> None:
        self.world.zygotes = {choose(["e", "z"])} if choose([False, True]) else set()
        self.tell_of_zygotes()

    def tell_of_zygotes(self) -> None:
        self.world.unwanted_zygotes &= self.world.zygotes
        spare = SpareZygote(memory={"cpu": 15}, rate=0.1, cold_cost_s=1.0, last_use_s=0.0)
        self.send(Spare(dict.fromkeys(sorted(self.world.zygotes), spare)))

    def change_budget(self, choose: Choose) -> None:
        device = choose(["cpu", *GPUS])
        usual = BUDGET if device == "cpu" else GPU_BUDGET
        self.budgets = self.budgets | {device: choose([usual, usual, usual * 6 // 10, usual * 2])}
        self.send(Budgets(self.budgets))

    def wait(self, choose: Choose) -> None:
        self.pass_time(choose([0.0, 0.5, 1.0, 5.0, 31.0, 200.0]))

    def pass_time(self, seconds: float) -> None:
        """With every alarm at its time."""
        end = self.now + seconds
        for _ in range(MANY_TICKS):
            at = self.core.next_wake()
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            self.send(Tick())
        raise AssertionError("the alarms do not end")

    def shut_down(self, choose: Choose) -> None:
        if not self.down and choose(RARELY):
            self.down = True
            self.world.stop_asked = dict.fromkeys(MODELS, self.now)
            self.send(Shutdown())

    def crash_and_restart(self, choose: Choose) -> None:
        """kill -9 of the platform: requests break off, ready replicas are adopted, the rest is reaped."""
        if self.down or not choose(RARELY):
            return
        survivors = {
            replica: Process(process.model, process.device, 0, self.now, go=True, reported=True, ready=True)
            for replica, process in self.world.processes.items()
            if process.ready and not process.silent and not process.terminated
        }  # of one that slept nobody knows what it would take
        self.world = Outside(processes=survivors)
        self.core = self.make_core()
        for replica, process in survivors.items():
            place = Place(process.device, memory_of(process.model, process.device))
            self.send(Adopted(process.model, TERMS[process.model], replica, place, "e"))

    # What the core may ask for

    def send(self, event: Event) -> None:
        for effect in self.core.handle(event, self.now):
            match effect:
                case Prepare(model):
                    assert not self.down, "nothing is begun after the end"
                    self.world.preparing.add(model)
                case Launch():
                    self.launched(effect)
                case Go(replica):
                    process = self.world.processes[replica]
                    assert process.reported or process.model in KNOWN
                    self.told_to_go(process)
                case Grant(ticket, replica_id):
                    self.granted(ticket, replica_id)
                case Fail(ticket):
                    assert ticket in self.world.open, "an answer to nobody, or a second one"
                    del self.world.open[ticket]
                case Terminate(replica):
                    self.terminate(replica)
                case Sleep(replica):
                    self.told_to_sleep(replica)
                case Wake(replica):
                    self.told_to_wake(self.world.processes[replica])
                case Kill(replica):
                    process = self.world.processes[replica]
                    assert not process.ready or process.terminated or process.silent
                    process.killed = True
                case Evicted(gone, _, for_model) if for_model not in ("", gone):  # its own old version may
                    claims = self.core.models[for_model].replicas.values()
                    assert any(claim.purpose.may_evict for claim in claims), "somebody goes for idle work"
                case StopZygote(engine):
                    assert engine in self.world.zygotes
                    self.world.unwanted_zygotes.add(engine)

    def launched(self, effect: Launch) -> None:
        assert not self.down, "nothing is started after the end"
        model, generation = effect.model, self.world.generations[effect.model]
        alike = [
            process
            for process in self.world.processes.values()
            if process.model == model and process.generation == generation and not process.terminated
        ]
        assert len(alike) < TERMS[model].max_replicas, "more processes of a model than it may have"
        assert effect.replica_id not in self.world.processes
        assert effect.device in SPREADS.get(model, ("cpu",)), "devices that it was not to run on"
        process = Process(model, effect.device, generation, self.now)
        self.world.processes[effect.replica_id] = process
        if effect.go:
            assert model in KNOWN, "it loads, and nobody knows what it will hold"
            self.told_to_go(process)

    def told_to_go(self, process: Process) -> None:
        assert not process.go and not process.terminated
        process.go = True
        self.fits(process)

    def told_to_sleep(self, replica: str) -> None:
        process = self.world.processes[replica]
        assert process.ready and not process.terminated
        assert process.model == "sleeper"
        assert replica not in self.world.leases.values(), "a busy replica was put to sleep"
        process.told_to_sleep, process.ready = True, False

    def told_to_wake(self, process: Process) -> None:
        assert process.slept and not process.terminated
        process.slept = process.told_to_sleep = False
        self.fits(process)

    def fits(self, process: Process) -> None:
        """On each of its devices."""
        for device in memory_of(process.model, process.device):
            assert self.world.held(device) <= self.budgets[device], f"memory above the budget of {device}"

    def granted(self, ticket: int, replica_id: str | None) -> None:
        assert ticket in self.world.open, "an answer to nobody, or a second one"
        model, want = self.world.open.pop(ticket)
        if want is Want.COLD:
            left = self.world.stopping.pop(ticket) & self.world.processes.keys()
            assert not left, "stopped means that no process is left"
        if want is Want.LEASE:
            assert replica_id is not None
            process = self.world.processes[replica_id]
            assert process.model == model
            newest = process.generation == self.world.generations[model]
            assert newest or ticket not in self.world.fresh, "a lease on a replica of an older spec"
            assert process.ready, "a lease on a replica that is not ready"
            assert not process.terminated, "a lease on a replica that is going"
            assert not process.silent, "a lease on a replica that hangs"
            if ticket in self.world.idle:
                self.granted_to_idle_work(model, replica_id)
            self.world.leases[ticket] = replica_id

    def granted_to_idle_work(self, model: str, replica_id: str) -> None:
        waiting = [
            m for t, (m, want) in self.world.open.items() if t not in self.world.idle and _hurries(want)
        ]
        assert model not in waiting, "idle work goes before somebody who waits"
        claims = [r for r in self.core.replicas.values() if r.starting and r.model.name in waiting]
        assert not claims, "idle work is begun while somebody waits for a start"
        held = sum(replica == replica_id for replica in self.world.leases.values())
        assert held < TERMS[model].idle_concurrency, "idle work leaves no place"

    def terminate(self, replica: str) -> None:
        assert replica in self.world.processes, "ending what does not run"
        process = self.world.processes[replica]
        if replica in self.world.leases.values():
            core = self.core.replicas[replica]
            asked = process.model in self.world.stop_asked
            assert asked or self.now >= core.drain_by, "a busy replica was stopped"
        process.terminated = True

    def end(self, replica: str, *, killed: bool = False) -> None:
        process = self.world.processes.pop(replica)
        self.world.leases = {t: r for t, r in self.world.leases.items() if r != replica}
        if not self.down and all(p.model != process.model for p in self.world.processes.values()):
            self.world.stop_asked.pop(process.model, None)
        self.send(Exited(replica, "ended", killed=killed))

    # What must hold after every step

    def check(self) -> None:
        self.states_tell_the_truth()
        self.nobody_waits_without_something_under_way()
        self.accounts_are_of_those_who_are_there()
        self.nobody_waits_longer_than_is_fair()

    def states_tell_the_truth(self) -> None:
        assert {r for r, replica in self.core.replicas.items() if replica.launched} == set(
            self.world.processes
        )
        for name, model in self.core.models.items():
            ready = [p for p in self.world.processes.values() if p.model == name and p.ready]
            assert (model.state is State.READY) <= bool(ready)
            assert (model.preparing is not None) == (name in self.world.preparing)
            waiting = {t for t, (m, _) in self.world.open.items() if m == name}
            assert set(model.waiting) == waiting - self.world.idle
            assert set(model.idling) == waiting & self.world.idle
            assert model.in_flight == sum(
                self.world.processes[r].model == name for r in self.world.leases.values()
            )

    def nobody_waits_without_something_under_way(self) -> None:
        for ticket, (model, _) in self.world.open.items():
            idle = ticket in self.world.idle  # which also waits for a pause to end
            assert idle or model in self.world.preparing or self.core.models[model].replicas

    def accounts_are_of_those_who_are_there(self) -> None:
        admitted = {r.id: r for r in self.core.replicas.values() if r.admitted}
        assert all(r in self.core.ledger for r in admitted)
        for device in self.budgets:
            held = sum(self.core.ledger.holding(r).get(device, 0) for r in self.core.replicas)
            zygotes = 15 * len(self.world.zygotes) if device == "cpu" else 0
            assert self.core.ledger.held.get(device, 0) == held + zygotes
        for replica in admitted.values():
            if not replica.naps and not self.world.processes[replica.id].slept:
                holding = self.core.ledger.holding(replica.id)
                assert holding == memory_of(replica.model.name, replica.device), (
                    "not its share of each device"
                )

    def nobody_waits_longer_than_is_fair(self) -> None:
        """Past the longest fair wait, whoever could make room has been asked to go."""
        claims = [r for r in self.core.replicas.values() if r.starting and r.need and not r.admitted]
        if len(claims) != 1 or claims[0].purpose not in (Purpose.REQUEST, Purpose.MINIMUM):
            return
        (claim,) = claims
        if claim.awaits or self.now < claim.claims_since + RULES.w_max_s or claim.need is None:
            return
        movable = [
            self.core.ledger.holding(r.id)
            for r in self.core.replicas.values()
            if r.state is State.READY
            and r.model is not claim.model
            and not r.model.terms.pinned
            and self.now >= r.ready_at + RULES.w_max_s
        ]
        room = {
            device: self.core.ledger.free(device) + sum(memory.get(device, 0) for memory in movable)
            for device in claim.need
        }
        lacking = [device for device, size in claim.need.items() if size > room[device]]
        assert lacking, "it waits although others could go"

    def finish(self) -> None:
        """From wherever it is, a world that does its part answers everybody."""
        for _ in range(300):
            if not self.world.open:
                return
            for model in sorted(self.world.preparing):
                self.prepared(model)
            for replica, process in sorted(self.world.processes.items()):
                if replica not in self.world.processes:
                    continue
                if process.terminated or process.killed:
                    self.end(replica)
                elif process.silent:
                    process.silent = False
                    self.send(Answered(replica))
                else:
                    self.step(replica)
            for ticket in sorted(self.world.leases):
                del self.world.leases[ticket]
                self.send(Release(ticket))
            if self.world.unwanted_zygotes:
                self.world.zygotes -= self.world.unwanted_zygotes
                self.world.unwanted_zygotes.clear()
                self.tell_of_zygotes()
            self.pass_time(RULES.drain_s)
        raise AssertionError(f"never answered: {self.world.open}")


def play(lives: int, seed: int) -> None:
    """Raises AssertionError with the seed of the life that went wrong."""
    for life in range(seed, seed + lives):
        lot = random.Random(life)
        world = FleetWorld()
        try:
            for _ in range(STEPS):
                world.act(lot.choice)
            world.finish()
        except AssertionError as error:
            raise AssertionError(f"life {life}: {error}") from error


if __name__ == "__main__":
    play(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{sys.argv[1]} lives of {STEPS} steps, and no rule broken")
