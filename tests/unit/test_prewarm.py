"""Starting models ahead: who is started when, and what is told of it. The fleet is a fake that keeps book."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.clock import SystemClock
from ekiben.contract.model import ModelSpec
from ekiben.errors import ModelNotFound
from ekiben.fleet.decisions.diary import APART_S, ENTRIES_KEPT, Diary
from ekiben.fleet.policy.patterns import LEAST_HOLD_S, Burden
from ekiben.fleet.prewarm import SCHEDULED_HOLD_S, Note, Prewarmer
from ekiben.fleet.types import ModelStatus, State

HOUR = timedelta(hours=1)
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def spec(name: str, *lines: str, keep_alive: str | None = None) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "family": "llm",
            "abilities": ["chat"],
            "prewarm": lines,
            "keep_alive": keep_alive,
            "variants": [{"format": "gguf", "engine": "e", "source": {"kind": "local", "path": "/weights"}}],
        }
    )


class Clock(SystemClock):
    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


@dataclass
class Records:
    """Arrivals as they would be read from the database."""

    kept: list[tuple[float, str]] = field(default_factory=list)

    def arrivals(self) -> Sequence[tuple[float, str]]:
        return tuple(self.kept)

    def add_arrival(self, model: str, *, at: float) -> None:
        self.kept.append((at, model))


class Fleet:
    """Every model is cold, unless it is told otherwise."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.prewarmed: list[tuple[str, float]] = []
        self.full = False
        self.unloads_in_s = 60.0
        self.unknown: set[str] = set()

    def status(self, model: str) -> ModelStatus:
        if model in self.unknown:
            raise ModelNotFound(model)
        state = self.states.get(model, State.COLD)
        nothing: dict[str, Any] = dict.fromkeys(["progress", "eta_s", "memory_bytes", "error", "retry_in_s"])
        nothing["unloads_in_s"] = self.unloads_in_s if state is State.READY else None
        return ModelStatus(name=model, family="llm", state=state, stage="", in_flight=0, waiting=0, **nothing)

    def prewarm(self, model: str, *, keep_alive_s: float) -> None:
        self.prewarmed.append((model, keep_alive_s))
        if not self.full:
            self.states[model] = State.LOADING


class World:
    """Two models, one of which has always followed the other."""

    def __init__(self, *specs: ModelSpec, patterns: bool = True, known: bool = True) -> None:
        self.clock = Clock()
        self.records = Records()
        for hours in range(12, 0, -1):
            at = (START - hours * HOUR).timestamp()
            self.records.kept += [(at, "chat"), (at + 20.0, "voice")]
        self.fleet = Fleet()
        self.catalog = list(specs) or [spec("chat"), spec("voice")]
        self.told: list[Note] = []
        burden = Burden(size_bytes=200_000_000, cold_cost_s=2.0, keep_alive_s=300.0) if known else None
        self.prewarmer = Prewarmer(
            models=self,
            diary=Diary(self.records),
            burden=lambda spec: burden,
            keep_alive_s=None,
            patterns=patterns,
            tell=self.told.append,
            clock=self.clock,
        )
        self.prewarmer.start(self.fleet)

    def specs(self) -> Sequence[ModelSpec]:
        return self.catalog

    def outcomes(self) -> list[str]:
        return [note.outcome for note in self.told]

    async def use(self, model: str) -> None:
        self.prewarmer.used(model)
        await self.prewarmer.settled()  # what follows from it is done after the request

    def at(self, moment: datetime) -> None:
        self.clock.at = moment
        self.prewarmer.tick()


@pytest.fixture
async def worlds() -> AsyncIterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        await world.prewarmer.stop()


@pytest.fixture
async def world(worlds: list[World]) -> World:
    worlds.append(World())
    return worlds[-1]


async def test_the_model_that_always_follows_is_started(world: World) -> None:
    await world.use("chat")
    assert world.fleet.prewarmed == [("voice", LEAST_HOLD_S)]
    (note,) = world.prewarmer.as_json()["prewarms"]
    assert (note["model"], note["trigger"], note["after"]) == ("voice", "pattern", "chat")
    assert note["outcome"] == "waiting"
    (pattern,) = world.prewarmer.as_json()["patterns"]
    assert (pattern["after"], pattern["model"]) == ("chat", "voice")
    assert pattern["right"] == pattern["tried"] > 0


async def test_the_one_that_it_follows_is_not(world: World) -> None:
    await world.use("voice")
    assert world.fleet.prewarmed == []


async def test_what_is_there_is_not_started(world: World) -> None:
    world.fleet.states["voice"] = State.READY
    await world.use("chat")
    assert world.fleet.prewarmed == []


async def test_the_next_requests_of_the_same_use_start_nothing(world: World) -> None:
    await world.use("chat")
    world.fleet.states["voice"] = State.COLD
    world.clock.at += timedelta(seconds=10)
    await world.use("chat")
    assert len(world.fleet.prewarmed) == 1


async def test_patterns_can_be_switched_off(worlds: list[World]) -> None:
    worlds.append(World(patterns=False))
    await worlds[0].use("chat")
    assert worlds[0].fleet.prewarmed == []


async def test_a_model_of_unknown_size_is_not_started(worlds: list[World]) -> None:
    worlds.append(World(known=False))
    await worlds[0].use("chat")
    assert worlds[0].fleet.prewarmed == []


async def test_a_request_makes_it_used(world: World) -> None:
    await world.use("chat")
    await world.use("voice")
    await world.use("voice")
    assert world.outcomes() == ["used"]
    assert world.prewarmer.as_json()["prewarms"][0]["outcome"] == "used"


async def test_one_that_left_without_a_request_was_for_nothing(world: World) -> None:
    await world.use("chat")
    world.prewarmer.started("voice", {"loading": 1.0})
    world.fleet.states["voice"] = State.READY
    world.at(START + timedelta(seconds=30))
    assert world.outcomes() == []
    world.fleet.states["voice"] = State.COLD
    world.at(START + timedelta(seconds=90))
    assert world.outcomes() == ["unused"]


async def test_one_that_found_no_room_is_told_apart(world: World) -> None:
    world.fleet.full = True
    await world.use("chat")
    world.at(START + timedelta(seconds=30))
    assert world.outcomes() == ["skipped"]


async def test_an_intent_is_followed_up(world: World) -> None:
    world.prewarmer.intended("voice")
    world.fleet.states["voice"] = State.LOADING
    world.prewarmer.intended("voice")
    await world.use("voice")
    assert [(note.trigger, note.outcome) for note in world.told] == [("intent", "used")]


async def test_schedules_start_their_models_once_each_time(worlds: list[World]) -> None:
    worlds.append(world := World(spec("m", "*/30 * * * *"), spec("n")))
    world.at(START + timedelta(minutes=29))
    assert world.fleet.prewarmed == []
    world.at(START + timedelta(minutes=30))
    assert world.fleet.prewarmed == [("m", SCHEDULED_HOLD_S)]
    world.at(START + timedelta(minutes=31))
    assert len(world.fleet.prewarmed) == 1
    world.fleet.states["m"] = State.COLD
    world.at(START + timedelta(hours=9))  # the machine slept
    assert len(world.fleet.prewarmed) == 2


async def test_a_scheduled_model_that_is_there_stays_longer_and_is_no_new_start(worlds: list[World]) -> None:
    worlds.append(world := World(spec("m", "*/30 * * * *", keep_alive="2h")))
    world.fleet.states["m"] = State.READY
    world.at(START + timedelta(minutes=30))
    assert world.fleet.prewarmed == [("m", 7200.0)]
    assert world.prewarmer.as_json()["prewarms"] == []
    world.fleet.unloads_in_s = 10_000.0
    world.at(START + timedelta(minutes=60))
    assert len(world.fleet.prewarmed) == 1, "it stays long enough anyway"


async def test_a_clock_that_is_set_back_starts_nothing(worlds: list[World]) -> None:
    worlds.append(world := World(spec("m", "*/30 * * * *")))
    world.at(START - 2 * HOUR + timedelta(minutes=5))
    assert world.fleet.prewarmed == []
    world.at(START - 2 * HOUR + timedelta(minutes=31))
    assert len(world.fleet.prewarmed) == 1


async def test_a_model_that_left_the_catalog_is_forgotten(world: World) -> None:
    await world.use("chat")
    world.fleet.unknown.add("voice")
    world.at(START + timedelta(seconds=30))
    assert world.outcomes() == ["skipped"]
    await world.use("voice")


async def test_a_model_that_leaves_the_catalog_meanwhile_is_not_started(world: World) -> None:
    world.prewarmer.used("chat")
    world.fleet.unknown.add("voice")
    await world.prewarmer.settled()
    assert world.fleet.prewarmed == []
    assert world.prewarmer.as_json()["prewarms"] == []


async def test_nothing_is_started_after_the_end(world: World) -> None:
    await world.prewarmer.stop()
    await world.use("chat")
    assert world.fleet.prewarmed == []


@given(st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from("abc")), max_size=600))
def test_the_diary_thins_out_and_remembers_as_written(requests: list[tuple[int, str]]) -> None:
    records = Records()
    diary = Diary(records)
    for at, model in sorted(requests):
        diary.note(model, float(at))
    for model in "abc":
        entries = diary.of(model)
        assert len(entries) <= ENTRIES_KEPT
        assert all(b - a >= APART_S for a, b in itertools.pairwise(entries))
        moments = [at for at, name in requests if name == model]
        last = max(moments, default=None)
        assert last is None or entries[-1] > last - APART_S, "nothing goes by unnoticed"
        assert Diary(records).of(model) == entries


def test_a_diary_begins_anew_when_the_clock_was_wrong() -> None:
    diary = Diary(Records())
    diary.note("m", 5e9)
    assert diary.note("m", 1000.0)
    assert diary.of("m") == (1000.0,)
