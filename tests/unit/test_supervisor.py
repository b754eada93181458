"""The loop around the fleet's core, with recording fakes for processes and preparation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ekiben.contract.model import ModelSpec
from ekiben.contract.policy import Idle, Resident
from ekiben.contract.source import FetchProgress
from ekiben.errors import EkibenError, FetchFailed, LoadFailed, ModelNotFound, ModelNotReady, ShuttingDown
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.state import Rules
from ekiben.fleet.processes.launcher import Adopted, Plan
from ekiben.fleet.supervisor import Supervisor
from ekiben.fleet.types import Address, State, ZygoteStatus
from ekiben.fleet.witness import Witness
from ekiben.runtime.protocol import Report, Stage, Work


def spec(name: str, *, keep_alive: object = "5m") -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "family": "llm",
            "abilities": ["chat"],
            "aliases": [f"{name}-alias"],
            "keep_alive": keep_alive,
            "variants": [{"format": "gguf", "engine": "e", "source": {"kind": "local", "path": "/weights"}}],
        }
    )


@dataclass
class Entry:
    spec: ModelSpec


class Models:
    def __init__(self, *specs: ModelSpec) -> None:
        self.all = [Entry(s) for s in specs]

    def get(self, name: str) -> Entry:
        for entry in self.all:
            if entry.spec.answers_to(name):
                return entry
        raise ModelNotFound(name)

    def meaning(self, name: str) -> str:
        return name

    def entries(self) -> Sequence[Entry]:
        return self.all


class Preparer:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: EkibenError | None = None
        self.calls = 0
        self.here = True
        """Whether the weights are."""

    def look(self, spec: ModelSpec) -> Plan | None:
        if self.error is not None:
            raise self.error
        return self.plan(spec) if self.here else None

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        self.calls += 1
        report(FetchProgress(done_bytes=50, total_bytes=100))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.plan(spec)

    @staticmethod
    def plan(spec: ModelSpec) -> Plan:
        return Plan(model=spec, variant=0, weights=Path("/w"), bento=Path("/b"), device="cpu", threads=1)


class FakeProcess:
    def __init__(self, number: int, report: Callable[[Report], None], exited: Callable[[str], None]) -> None:
        self.pid = number
        self.address = Address("unix", f"/sockets/{number}")
        self.report = report
        self.exited = exited
        self.signals: list[str] = []
        self.went = asyncio.Event()
        self.ends_when_asked = True

    def terminate(self) -> None:
        self.signals.append("terminate")
        if self.ends_when_asked:
            asyncio.get_running_loop().call_soon(self.exited, "exit code 0")

    def kill(self) -> None:
        self.signals.append("kill")
        asyncio.get_running_loop().call_soon(self.exited, "SIGKILL")

    def go(self) -> None:
        self.signals.append("go")
        self.went.set()

    def sleep(self) -> None:
        self.signals.append("sleep")

    def wake(self) -> None:
        self.signals.append("wake")

    def memory_bytes(self) -> int | None:
        return 1000

    def memory(self) -> dict[str, int] | None:
        return {"cpu": 1000}


class FakeLauncher:
    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.launched = asyncio.Event()
        self.error: OSError | None = None
        self.closed = False
        self.went: list[bool] = []
        """Whether each was told to load at once."""
        self.stopped_zygotes: list[str] = []

    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        go: bool,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> FakeProcess:
        if self.error is not None:
            raise self.error
        self.went.append(go)
        process = FakeProcess(len(self.processes) + 1, on_report, on_exit)
        self.processes.append(process)
        self.launched.set()
        return process

    async def adopt(
        self, *, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
    ) -> Sequence[Adopted]:
        return ()

    def zygotes(self) -> Sequence[ZygoteStatus]:
        return ()

    def stop_zygote(self, engine: str) -> None:
        self.stopped_zygotes.append(engine)

    def close(self) -> None:
        self.closed = True

    async def ready(self) -> FakeProcess:
        """Wait for the next launch and let it become ready."""
        await self.launched.wait()
        self.launched.clear()
        process = self.processes[-1]
        process.report(Report(stage=Stage.READY, host_bytes=1000))
        return process


class Memory:
    """One device."""

    def __init__(self) -> None:
        self.budget = 2000
        self.need: dict[str, int] | None = {"cpu": 1000}
        self.learned: list[dict[str, int]] = []
        self.overrun: list[dict[str, int]] = []
        self.estimate = 1500
        self.riddle: EkibenError | None = None
        """Why there is no estimate."""

    def budgets(self) -> dict[str, int]:
        return {"cpu": self.budget}

    def places(self, plan: Plan) -> tuple[Place, ...]:
        return (Place("cpu", self.need),)

    async def foreseen(self, plan: Plan) -> tuple[Place, ...]:
        if self.riddle is not None:
            raise self.riddle
        return (Place("cpu", self.need or {"cpu": self.estimate}),)

    def measured(self, plan: Plan, memory: Mapping[str, int]) -> None:
        self.learned.append(dict(memory))

    def ran_out(self, plan: Plan, memory: Mapping[str, int]) -> None:
        self.overrun.append(dict(memory))


class Starts:
    """Of which the last is remembered."""

    def __init__(self) -> None:
        self.stages_s: list[dict[str, float]] = []

    def started(self, plan: Plan, stages_s: Mapping[str, float]) -> None:
        self.stages_s.append(dict(stages_s))

    def eta_s(self, plan: Plan, stage: str, elapsed_s: float) -> float | None:
        return 7.0 if self.stages_s else None

    def cold_cost_s(self, plan: Plan) -> float | None:
        return None


class Policy:
    def worth(self, resident: Resident) -> float:
        return resident.last_use_s

    def keep_alive_s(self, idle: Idle) -> float:
        return 300.0


class Ear(Witness):
    """Remembers what is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []

    def used(self, model: str) -> None:
        self.heard.append(("used", model))

    def intended(self, model: str) -> None:
        self.heard.append(("intended", model))

    def started(self, model: str, stages_s: Mapping[str, float]) -> None:
        self.heard.append(("started", model, *stages_s))

    def failed(self, model: str, code: str) -> None:
        self.heard.append(("failed", model, code))

    def evicted(self, model: str, *, for_model: str) -> None:
        self.heard.append(("evicted", model, for_model))


@dataclass
class World:
    supervisor: Supervisor
    preparer: Preparer
    launcher: FakeLauncher
    models: Models
    memory: Memory
    starts: Starts
    ear: Ear


@pytest.fixture
async def world(tmp_path: Path) -> World:
    models, preparer, launcher = Models(spec("m"), spec("n", keep_alive=0)), Preparer(), FakeLauncher()
    memory, starts, ear = Memory(), Starts(), Ear()
    supervisor = Supervisor(
        core=FleetCore(Rules(start_timeout_s=60, drain_s=1, max_waiting=20), Policy()),
        models=models,
        preparer=preparer,
        launcher=launcher,
        memory=memory,
        starts=starts,
        log_folder=tmp_path,
        keep_alive_s=300,
        wait_s=5,
        witness=ear,
    )
    return World(supervisor, preparer, launcher, models, memory, starts, ear)


async def test_witness_hears_of_starts_uses_and_evictions(world: World) -> None:
    await world.supervisor.start()
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    assert world.ear.heard[0] == ("intended", "m")
    assert world.ear.heard[1][:2] == ("started", "m")
    assert "loading" not in world.ear.heard[1], "the fake is ready without it"
    lease = await world.supervisor.acquire("m")
    assert world.ear.heard[2:] == [("used", "m")]
    world.supervisor.release(lease)
    world.ear.heard.clear()
    world.memory.need = {"cpu": 1500}
    asking = asyncio.create_task(world.supervisor.acquire("n"))
    await world.launcher.ready()
    lease = await asking
    assert world.ear.heard == [("evicted", "m", "n"), ("used", "n")]
    world.supervisor.first_byte(lease)
    assert world.ear.heard[2][:2] == ("started", "n")
    assert {"evicting", "first_token"} <= set(world.ear.heard[2])
    world.supervisor.release(lease)
    await world.supervisor.shutdown(1)


async def test_witness_hears_of_each_failed_start_once(world: World) -> None:
    world.preparer.error = FetchFailed("the disk is full")
    await asyncio.gather(*(world.supervisor.acquire("m") for _ in range(3)), return_exceptions=True)
    assert world.ear.heard == [("failed", "m", "weights_unavailable")]


async def test_model_that_is_started_ahead_is_there_without_a_request(world: World) -> None:
    world.supervisor.prewarm("n", keep_alive_s=120.0)
    await world.launcher.ready()
    status = world.supervisor.status("n")
    assert status.state is State.READY
    assert status.unloads_in_s == pytest.approx(120, abs=5), "its own keep-alive of 0 begins with a use"
    world.supervisor.release(await world.supervisor.acquire("n"))
    assert world.launcher.processes[-1].signals == ["terminate"]


async def test_memory_is_told_by_device(world: World) -> None:
    await world.supervisor.start()
    assert world.supervisor.memory() == {"cpu": (2000, 0)}
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    assert world.supervisor.memory() == {"cpu": (2000, 1000)}
    await world.supervisor.shutdown(1)


async def test_lease_names_the_replica_and_the_catalogued_name(world: World) -> None:
    asking = asyncio.create_task(world.supervisor.acquire("m-alias"))
    await world.launcher.ready()
    lease = await asking
    assert lease.model == "m"
    assert lease.address == Address("unix", "/sockets/1")
    status = world.supervisor.status("m")
    assert (status.state, status.in_flight, status.memory_bytes) == (State.READY, 1, 1000)
    world.supervisor.release(lease)
    status = world.supervisor.status("m")
    assert status.in_flight == 0
    assert status.unloads_in_s == pytest.approx(300, abs=5)


async def test_sixteen_requests_make_one_start(world: World) -> None:
    asking = [asyncio.create_task(world.supervisor.acquire("m")) for _ in range(16)]
    await world.launcher.ready()
    leases = await asyncio.gather(*asking)
    assert len({lease.id for lease in leases}) == 16
    assert len(world.launcher.processes) == 1
    assert world.preparer.calls == 1


async def test_wait_that_is_over_tells_how_far_it_is_and_the_load_goes_on(world: World) -> None:
    world.preparer.gate.clear()
    with pytest.raises(ModelNotReady) as caught:
        await world.supervisor.acquire("m", wait_s=0.05)
    assert caught.value.detail is not None
    assert caught.value.detail["state"] == "fetching"
    assert caught.value.detail["progress"] == 0.5
    world.preparer.gate.set()
    await world.launcher.ready()
    assert world.supervisor.status("m").state is State.READY


async def test_cancelled_request_leaves_no_trace(world: World) -> None:
    world.preparer.gate.clear()
    asking = asyncio.create_task(world.supervisor.acquire("m"))
    await asyncio.sleep(0)
    assert world.supervisor.status("m").waiting == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.supervisor.status("m").waiting == 0


async def test_grant_to_somebody_who_just_left_goes_back(world: World) -> None:
    asking = asyncio.create_task(world.supervisor.acquire("m"))
    await world.launcher.launched.wait()
    world.launcher.processes[-1].report(Report(stage=Stage.READY))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.supervisor.status("m").in_flight == 0


async def test_errors_reach_everybody_who_waits(world: World) -> None:
    world.preparer.error = FetchFailed("the disk is full")
    results = await asyncio.gather(*(world.supervisor.acquire("m") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [FetchFailed] * 3
    assert world.supervisor.status("m").error == "the disk is full"


async def test_process_that_cannot_be_started_is_a_clear_error(world: World) -> None:
    world.launcher.error = OSError("too many processes")
    with pytest.raises(LoadFailed, match="too many processes"):
        await world.supervisor.acquire("m")


async def test_unknown_model(world: World) -> None:
    with pytest.raises(ModelNotFound):
        await world.supervisor.acquire("x")


async def test_keep_alive_zero_stops_and_the_next_request_starts_again(world: World) -> None:
    for _ in range(2):
        asking = asyncio.create_task(world.supervisor.acquire("n"))
        process = await world.launcher.ready()
        world.supervisor.release(await asking)
        assert process.signals == ["terminate"]
    assert len(world.launcher.processes) == 2


async def test_stop_returns_when_cold(world: World) -> None:
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    status = await world.supervisor.stop("m")
    assert status.state is State.COLD
    assert status.replicas == ()


async def test_load_without_waiting_returns_at_once(world: World) -> None:
    status = await world.supervisor.load("m", wait_s=0)
    assert status.state is State.QUEUED
    await world.launcher.ready()
    assert world.supervisor.status("m").state is State.READY


async def test_pull_brings_weights_and_starts_nothing(world: World) -> None:
    status = await world.supervisor.pull("m")
    assert status.state is State.COLD
    assert world.launcher.processes == []


async def test_events_begin_with_a_snapshot_and_end_with_the_last_state(world: World) -> None:
    events = world.supervisor.events()
    first = await anext(events)
    assert first["type"] == "snapshot"
    assert [model["name"] for model in first["models"]] == ["m", "n"]
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    async with asyncio.timeout(5):
        async for event in events:
            assert event["type"] == "model"
            assert event["seq"] > first["seq"]
            if event["model"]["state"] == "ready":
                break


async def test_long_work_is_told_with_its_model_until_it_ends(world: World) -> None:
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    process = world.launcher.processes[-1]
    events = world.supervisor.events()
    assert [model["work"] for model in (await anext(events))["models"]] == [(), ()]
    work = Work(request="req_1", route="/v1/images/generations", done=3, total=8, unit="steps")
    process.report(Report(stage=Stage.READY, work=(work,)))
    (replica,) = world.supervisor.status("m").replicas
    told = {"replica": replica.id, **work.model_dump()}
    assert (await anext(events))["model"]["work"] == (told,)
    process.report(Report(stage=Stage.READY, work=()))
    assert (await anext(events))["model"]["work"] == ()


async def test_work_goes_with_its_process(world: World) -> None:
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    work = Work(request="req_1", route="/v1/audio/transcriptions", done=30, unit="seconds")
    process = world.launcher.processes[-1]
    process.report(Report(stage=Stage.READY, work=(work,)))
    process.exited("SIGSEGV")
    assert world.supervisor.status("m").work == ()


async def test_shutdown_stops_every_process_and_refuses_what_comes(world: World) -> None:
    asking = asyncio.create_task(world.supervisor.acquire("m"))
    process = await world.launcher.ready()
    lease = await asking
    stopping = asyncio.create_task(world.supervisor.shutdown(5))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await world.supervisor.acquire("m")
    assert process.signals == [], "a running request may end"
    world.supervisor.release(lease)
    await stopping
    assert process.signals == ["terminate"]
    assert world.launcher.closed


async def test_shutdown_does_not_wait_for_a_process_that_hangs(world: World) -> None:
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    process = world.launcher.processes[0]
    process.ends_when_asked = False
    await world.supervisor.shutdown(0.1)
    assert process.signals == ["terminate", "kill"]


async def test_whether_a_model_fits_is_told_without_starting_it(world: World) -> None:
    await world.supervisor.start()
    fit = await world.supervisor.fit("m")
    assert (fit.fits, fit.device, fit.need, fit.budgets) == ("now", "cpu", {"cpu": 1000}, {"cpu": 2000})
    world.memory.need = None
    assert (await world.supervisor.fit("m")).need == {"cpu": 1500}, "the engine is asked"
    world.memory.estimate = 5000
    fit = await world.supervisor.fit("m")
    assert (fit.fits, fit.need) == ("never", {"cpu": 5000})
    assert fit.reason
    assert world.launcher.processes == []
    await world.supervisor.shutdown(1)


async def test_who_would_go_is_told_and_nobody_goes(world: World) -> None:
    await world.supervisor.start()
    leasing = asyncio.create_task(world.supervisor.acquire("m"))
    process = await world.launcher.ready()
    world.supervisor.release(await leasing)
    world.memory.need = {"cpu": 1800}
    fit = await world.supervisor.fit("n")
    assert (fit.fits, fit.would_go) == ("after evictions", ("m",))
    assert (await world.supervisor.fit("m")).fits == "loaded"
    assert process.signals == []
    assert world.supervisor.replica_pids() == [process.pid]
    await world.supervisor.shutdown(1)


async def test_why_it_is_not_known_whether_a_model_fits(world: World) -> None:
    world.memory.need, world.memory.riddle = None, LoadFailed("the file is broken")
    fit = await world.supervisor.fit("m")
    assert (fit.fits, fit.reason) == ("unknown", "the file is broken")
    world.preparer.here = False
    assert (await world.supervisor.fit("m")).reason == "its weights are not here yet"
    world.preparer.error = LoadFailed("there is no such engine")
    assert (await world.supervisor.fit("m")).reason == "there is no such engine"


async def test_model_goes_for_another_one_within_the_budget(world: World) -> None:
    world.memory.need = {"cpu": 1200}
    await world.supervisor.start()
    asking = asyncio.create_task(world.supervisor.acquire("m"))
    first = await world.launcher.ready()
    world.supervisor.release(await asking)
    asking = asyncio.create_task(world.supervisor.acquire("n"))
    await world.launcher.launched.wait()
    second = world.launcher.processes[1]
    await asyncio.wait_for(second.went.wait(), 5)
    assert first.signals == ["terminate"]
    assert world.launcher.went == [True, False]
    await world.launcher.ready()
    assert (await asking).model == "n"


async def test_new_spec_takes_over_without_failing_a_request(world: World) -> None:
    world.memory.need = {"cpu": 100}
    await asyncio.gather(world.supervisor.load("m"), world.launcher.ready())
    world.models.all[0] = Entry(spec("m", keep_alive="1m"))
    world.supervisor.replaced("m")
    lease = await world.supervisor.acquire("m")
    await world.launcher.ready()
    again = await world.supervisor.acquire("m")
    assert (lease.replica_id, again.replica_id) == ("r1", "r2")
    world.supervisor.release(lease)
    assert world.launcher.processes[0].signals == ["terminate"]
