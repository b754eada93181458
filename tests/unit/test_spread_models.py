"""Models over several devices: where they may go, what they hold there, and who goes for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.contract.manifest import EngineSection
from ekiben.contract.model import Ability, Family, ModelSpec, Variant
from ekiben.errors import InsufficientMemory
from ekiben.fleet.decisions.events import Fail, Go, Launch, Prepared, Release, Reported, Terminate
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.memory.book import Book
from ekiben.fleet.memory.spreads import MOST, spreads
from ekiben.fleet.processes.berths import Berths, Plan, plan_of
from ekiben.runtime.host import assignment_of
from ekiben.runtime.process.devices import as_seen, parts, visible
from ekiben.runtime.protocol import ORDER_FILE, Order, Report, Stage
from ekiben.store.database import Database
from ekiben.store.records import Records
from tests.unit.fleet_in_hand import FleetInHand

GB = 10**9
FOUR = {"cpu": 64 * GB} | {f"cuda:{n}": 24 * GB for n in range(4)}


def two_places(share: int) -> tuple[Place, ...]:
    pairs = ("cuda:0+cuda:1", "cuda:0+cuda:2", "cuda:1+cuda:2")
    return tuple(Place(pair, {"cpu": 1} | dict.fromkeys(parts(pair), share)) for pair in pairs)


@pytest.fixture
def fleet() -> FleetInHand:
    return FleetInHand({"cpu": 100, "cuda:0": 50, "cuda:1": 50, "cuda:2": 50})


def occupy(fleet: FleetInHand, model: str, device: str, size: int) -> str:
    """A ready replica that nobody uses."""
    fleet.arrive(model)
    (launch,) = fleet.send(Prepared(model, None, (Place(device, {"cpu": 1, device: size}),)))
    assert isinstance(launch, Launch)
    fleet.send(Reported(launch.replica_id, Report(stage=Stage.READY, host_bytes=1, device_bytes=size)))
    fleet.send(Release(fleet.tickets))
    return launch.replica_id


def test_a_model_takes_the_first_devices_that_are_free_together(fleet: FleetInHand) -> None:
    occupy(fleet, "a", "cuda:0", 20)
    fleet.arrive("wide")
    (launch,) = fleet.send(Prepared("wide", None, two_places(40)))
    assert isinstance(launch, Launch)
    assert (launch.device, launch.go) == ("cuda:1+cuda:2", True)
    assert fleet.core.ledger.held == {"cpu": 2, "cuda:0": 20, "cuda:1": 40, "cuda:2": 40}


def test_what_it_tells_of_one_device_is_set_aside_on_each(fleet: FleetInHand) -> None:
    fleet.arrive("wide")
    (launch,) = fleet.send(Prepared("wide", None, tuple(Place(p.device) for p in two_places(0))))
    assert isinstance(launch, Launch) and not launch.go
    told = Report(stage=Stage.STARTING, host_bytes=7, device_bytes=30)
    assert fleet.send(Reported(launch.replica_id, told)) == [Go(launch.replica_id)]
    assert fleet.core.ledger.holding(launch.replica_id) == {"cpu": 7, "cuda:0": 30, "cuda:1": 30}


def test_an_unknown_need_is_asked_for_where_the_fullest_device_has_most_room(fleet: FleetInHand) -> None:
    occupy(fleet, "a", "cuda:1", 30)
    fleet.arrive("wide")
    (launch,) = fleet.send(Prepared("wide", None, tuple(Place(p.device) for p in two_places(0))))
    assert isinstance(launch, Launch)
    assert launch.device == "cuda:0+cuda:2"


def test_nobody_goes_before_all_devices_are_known_to_get_free(fleet: FleetInHand) -> None:
    for number, model in enumerate("abc"):
        occupy(fleet, model, f"cuda:{number}", 30)
    fleet.later(10)
    fleet.arrive("a")  # cuda:0 is busy now
    fleet.arrive("wide")
    effects = fleet.send(Prepared("wide", None, two_places(40)))
    gone = [effect.replica_id for effect in effects if isinstance(effect, Terminate)]
    assert gone == ["r2", "r3"]
    (launch,) = [effect for effect in effects if isinstance(effect, Launch)]
    assert (launch.device, launch.go) == ("cuda:1+cuda:2", False)


def test_what_can_never_fit_is_refused_with_the_arithmetic_of_its_devices() -> None:
    fleet = FleetInHand({"cpu": GB, "cuda:0": 50 * GB, "cuda:1": 30 * GB})
    occupy(fleet, "a", "cuda:0", 20 * GB)
    fleet.arrive("wide")
    share = dict.fromkeys(("cuda:0", "cuda:1"), 40 * GB)
    (failed,) = fleet.send(Prepared("wide", None, (Place("cuda:0+cuda:1", share),)))
    assert isinstance(failed, Fail) and isinstance(failed.error, InsufficientMemory)
    assert "it needs 40.0 GB on cuda:1, where 30.0 GB may be used in all" in failed.error.message
    assert fleet.core.replicas.keys() == {"r1"}


# Which devices


def test_ways_to_choose_devices() -> None:
    three = ["cuda:0", "cuda:1", "rocm:0", "cuda:2"]
    assert spreads(three, 1) == ["cuda:0", "cuda:1", "cuda:2", "rocm:0"]
    assert spreads(three, 2) == ["cuda:0+cuda:1", "cuda:0+cuda:2", "cuda:1+cuda:2"]
    assert spreads(three, 4) == []
    many = [f"cuda:{n}" for n in range(16)]
    neighbours = spreads(many, 8)
    assert len(neighbours) == 9 <= MOST
    assert neighbours[1] == "+".join(many[1:9])


def test_a_process_sees_its_devices_and_no_others() -> None:
    assert visible("cuda:3+cuda:1")["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert visible("rocm:2")["HIP_VISIBLE_DEVICES"] == "2"
    assert set(visible("cpu").values()) == {""}
    assert as_seen("cuda:3+cuda:1") == "cuda:0+cuda:1"
    assert (as_seen("rocm:5"), as_seen("cpu")) == ("rocm:0", "cpu")


def test_the_manifest_says_over_how_many() -> None:
    option = {"type": "integer", "default": 1, "help": "devices"}
    section = EngineSection.model_validate(
        {
            "families": ["llm"],
            "abilities": ["chat"],
            "formats": ["gguf"],
            "options": {"tensor": option, "pipeline": option},
            "spread": ["tensor", "pipeline"],
        }
    )
    assert section.devices_for({}) == 1
    assert section.devices_for({"tensor": 4, "pipeline": 2}) == 8


# What is remembered


def plan(device: str = "cpu") -> Plan:
    variant = Variant.model_validate({"format": "x", "engine": "e", "source": {"kind": "local"}})
    spec = ModelSpec(name="m", family=Family.LLM, abilities=frozenset({Ability.CHAT}), variants=(variant,))
    here = Path("/nowhere")
    return Plan(model=spec, variant=0, weights=here, bento=here, device=device, threads=1)


class Estimator:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def need(self, plan: Plan) -> dict[str, int]:
        self.asked.append(plan.device)
        return {"cpu": GB} | dict.fromkeys(parts(plan.device), 2 * GB)


@pytest.fixture
def records() -> Iterator[Records]:
    database = Database.open("sqlite://")
    records = Records(database)
    yield records
    records.close()
    database.close()


def book(records: Records, *, count: int = 2, device: str = "auto") -> Book:
    return Book(
        needs=records,
        budgets=lambda: FOUR,
        device=device,
        engine_devices=lambda engine: ["cpu", "cuda"],
        estimates=Estimator(),
        spread=lambda variant: count,
    )


def test_a_need_learned_on_some_devices_holds_for_others_of_the_kind(records: Records) -> None:
    memory = book(records)
    assert [place.need for place in memory.places(plan())] == [None] * 6
    memory.measured(plan("cuda:0+cuda:3"), {"cpu": 3 * GB, "cuda:0": 9 * GB, "cuda:3": 10 * GB})
    needs = {place.device: place.need for place in memory.places(plan())}
    assert needs["cuda:0+cuda:3"] == {"cpu": 3 * GB, "cuda:0": 9 * GB, "cuda:3": 10 * GB}
    assert needs["cuda:1+cuda:2"] == {"cpu": 3 * GB, "cuda:1": 10 * GB, "cuda:2": 10 * GB}
    assert memory.learned(plan().model, 0) == 19 * GB


async def test_an_engine_is_asked_once_for_all_devices_of_a_kind(records: Records) -> None:
    estimator = Estimator()
    memory = book(records)
    memory._estimates = estimator
    places = await memory.foreseen(plan())
    assert estimator.asked == ["cuda:0+cuda:1"]
    assert places[5] == Place("cuda:2+cuda:3", {"cpu": GB, "cuda:2": 2 * GB, "cuda:3": 2 * GB})


def test_fewer_devices_than_it_goes_over_are_told(records: Records) -> None:
    with pytest.raises(
        InsufficientMemory, match=r"goes over 8 devices of one kind, and there are 4 \(cuda:0"
    ):
        book(records, count=8).places(plan())
    with pytest.raises(InsufficientMemory, match=r"goes over 2 .* there are 1 \(cuda:1\)"):
        book(records, device="cuda:1").places(plan())


def test_the_setting_may_name_several_devices(records: Records) -> None:
    assert [p.device for p in book(records, device="cuda:1+cuda:3").places(plan())] == ["cuda:1+cuda:3"]
    one = book(records, count=1, device="cuda:1+cuda:3")
    assert [place.device for place in one.places(plan())] == ["cuda:1", "cuda:3"]
    assert [place.device for place in book(records, device="cpu").places(plan())] == ["cpu"]


def test_the_order_carries_all_devices(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-") as run:
        berths = Berths(run_folder=Path(run), log_folder=tmp_path)
        berth = berths.prepare("r1", plan("cuda:1+cuda:3"), go=True)
        order = Order.model_validate_json((berth.folder / ORDER_FILE).read_bytes())
        berth.hand_over()
        berth.channel.close()
    assert plan_of(order) == plan("cuda:1+cuda:3")
    assert assignment_of(order).device == "cuda:0+cuda:1"
