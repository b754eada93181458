"""Where a plan may run, and what is learned of its needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ekiben.contract.manifest import BuildMark
from ekiben.contract.model import Ability, Family, ModelSpec, Variant
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.memory.book import GROWTH, Book
from ekiben.fleet.processes.berths import Plan
from ekiben.fleet.run_key import RunKey
from ekiben.plugins.devices import usable_kinds
from ekiben.plugins.discovery import Plugins, discover
from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Need, Records

GIB = 2**30
MIB = 2**20
GPUS = {"cpu": 64 * GIB, "cuda:0": 16 * GIB, "cuda:1": 24 * GIB, "rocm:0": 8 * GIB}


class Estimator:
    async def need(self, plan: Plan) -> dict[str, int]:
        return {"cpu": 1, plan.device: 2}


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    database = Database.open(sqlite_url(tmp_path / "x.db"))
    records = Records(database)
    yield records
    records.close()
    database.close()


def make(records: Records, *, budgets: dict[str, int] = GPUS, device: str = "auto", **kinds: str) -> Book:
    return Book(
        needs=records,
        budgets=lambda: budgets,
        device=device,
        engine_devices=lambda engine: kinds.get(engine, "cpu").split(),
        estimates=Estimator(),
    )


def plan(device: str = "cpu", *, engine: str = "e") -> Plan:
    variant = Variant.model_validate({"format": "gguf", "source": {"kind": "local"}, "engine": engine})
    spec = ModelSpec(name="m", family=Family.LLM, abilities=frozenset({Ability.CHAT}), variants=(variant,))
    folder = Path("/nowhere")
    return Plan(model=spec, variant=0, weights=folder, bento=folder, device=device, threads=1)


def devices(memory: Book, engine: str = "e") -> list[str]:
    return [place.device for place in memory.places(plan(engine=engine))]


def test_gpus_that_the_engine_can_use_are_taken_before_the_host(records: Records) -> None:
    memory = make(records, e="cpu cuda", both="cpu cuda rocm")
    assert devices(memory) == ["cuda:0", "cuda:1"]
    assert devices(memory, "both") == ["cuda:0", "cuda:1", "rocm:0"]
    assert devices(memory, "other") == ["cpu"]


def test_without_gpus_everything_runs_on_the_host(records: Records) -> None:
    assert devices(make(records, budgets={"cpu": GIB}, e="cpu cuda")) == ["cpu"]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_the_operator_may_name_the_device(records: Records, device: str) -> None:
    assert devices(make(records, device=device, e="cpu cuda")) == [device]


def test_a_need_is_not_known_before_it_was_measured(records: Records) -> None:
    assert make(records).places(plan()) == (Place("cpu", None),)


async def test_what_was_never_measured_is_foreseen(records: Records) -> None:
    memory = make(records, e="cuda")
    memory.measured(plan("cuda:0"), {"cpu": 3, "cuda:0": GIB})
    assert await memory.foreseen(plan()) == (
        Place("cuda:0", {"cpu": 3, "cuda:0": GIB}),
        Place("cuda:1", {"cpu": 1, "cuda:1": 2}),
    )


def test_the_peak_is_kept_for_each_device(records: Records) -> None:
    memory = make(records, e="cuda")
    for host, gpu in ((2, 5), (1, 9), (3, 4)):
        memory.measured(plan("cuda:1"), {"cpu": host * GIB, "cuda:1": gpu * GIB})
    assert memory.places(plan()) == (
        Place("cuda:0", None),
        Place("cuda:1", {"cpu": 3 * GIB, "cuda:1": 9 * GIB}),
    )


def test_a_need_without_its_gpus_part_is_none(records: Records) -> None:
    memory = make(records, device="cuda:0")
    memory.measured(plan("cuda:0"), {"cpu": GIB})
    assert memory.places(plan()) == (Place("cuda:0", None),)


def test_a_peak_that_is_hardly_higher_is_not_written(records: Records) -> None:
    memory = make(records)
    memory.measured(plan(), {"cpu": GIB})
    run = RunKey.of(plan())
    first = records.need(run)
    memory.measured(plan(), {"cpu": GIB + 15 * MIB})
    memory.measured(plan(), {"cpu": GIB - 500 * MIB})
    assert records.need(run) is first
    memory.measured(plan(), {"cpu": GIB + 40 * MIB})
    assert records.need(run) == Need({"cpu": GIB + 40 * MIB})


def test_after_running_out_more_is_asked_for_up_to_all_there_is(records: Records) -> None:
    memory = make(records, budgets={"cpu": 8 * GIB})
    need = {"cpu": 4 * GIB}
    asked = []
    for _ in range(5):
        memory.ran_out(plan(), need)
        (place,) = memory.places(plan())
        assert place.need is not None
        need = dict(place.need)
        asked.append(need["cpu"])
    assert asked[:3] == [int(4 * GIB * GROWTH), int(4 * GIB * GROWTH**2), int(4 * GIB * GROWTH**3)]
    assert asked[3:] == [8 * GIB, 8 * GIB]


def test_what_ran_out_counts_also_when_less_is_measured_later(records: Records) -> None:
    memory = make(records)
    memory.ran_out(plan(), {"cpu": 4 * GIB})
    memory.measured(plan(), {"cpu": GIB})
    assert memory.places(plan()) == (Place("cpu", {"cpu": 5 * GIB}),)


def test_a_peak_that_does_not_fit_any_more_is_told_as_it_is(records: Records) -> None:
    memory = make(records, budgets={"cpu": GIB})
    memory.measured(plan(), {"cpu": 3 * GIB})
    assert memory.places(plan()) == (Place("cpu", {"cpu": 3 * GIB}),)


def marked(plugins: Plugins, mark: BuildMark) -> Plugins:
    plugin = plugins.engines()["llama_cpp"]
    assert plugin.manifest.engine is not None
    section = plugin.manifest.engine.model_copy(update={"builds": {"cuda": mark}})
    changed = replace(plugin, manifest=plugin.manifest.model_copy(update={"engine": section}))
    return Plugins({"llama_cpp": changed})


def test_a_build_for_the_cpu_cannot_use_gpus() -> None:
    plugins = discover()
    here = BuildMark(file="xllamacpp/*.so")
    assert usable_kinds(marked(plugins, here), "llama_cpp") == {"cpu", "cuda"}
    named = BuildMark(file="xllamacpp/*.so", names="libstdc++.so")
    assert usable_kinds(marked(plugins, named), "llama_cpp") == {"cpu", "cuda"}
    for absent in (BuildMark(file="xllamacpp/*.dylib"), BuildMark(file="xllamacpp/*.so", names="libno.so.7")):
        assert usable_kinds(marked(plugins, absent), "llama_cpp") == {"cpu"}
    assert usable_kinds(plugins, "piper") == {"cpu"}
    assert usable_kinds(plugins, "no such engine") == {"cpu"}
