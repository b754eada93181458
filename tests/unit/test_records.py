"""What is learned is read from memory, written behind the caller's back, bounded, and never in the way."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import Family, ModelSpec, Variant
from ekiben.errors import ConfigError
from ekiben.fleet.processes.berths import Plan
from ekiben.fleet.run_key import RunKey
from ekiben.store import records as records_module
from ekiben.store.database import Database, sqlite_url
from ekiben.store.journal import Journal
from ekiben.store.records import ARRIVALS_KEPT, STARTS_KEPT, Need, Records, Uses
from ekiben.store.schema import ARRIVALS, NEEDS

RUN = ("m", "llama_cpp", "0123456789abcdef", "cpu")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(sqlite_url(tmp_path / "x.db"))
    yield database
    database.close()


def reopened(database: Database, records: Records) -> Records:
    records.close()
    return Records(database)


def rows(database: Database, table: str) -> int:
    with database.reading() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() or 0)


def test_the_last_of_several_ways_to_run_a_model_is_known(database: Database) -> None:
    records = Records(database)
    assert records.last_run("m") is None
    on_gpu = (*RUN[:3], "cuda:0")
    records.add_start(on_gpu, {"loading": 1.0})
    records.add_start(RUN, {"loading": 1.0})
    records.add_start(on_gpu, {"loading": 2.0})
    records.add_start(("other", *RUN[1:]), {"loading": 1.0})
    assert records.last_run("m") == on_gpu
    assert reopened(database, records).last_run("m") == on_gpu


def test_everything_is_there_after_a_restart(database: Database) -> None:
    records = Records(database)
    need = Need({"cpu": 5, "cuda:0": 7}, {"cpu": 6})
    records.keep_need(RUN, need)
    records.add_start(RUN, {"queued": 0.5, "loading": 2.0})
    records.add_start(RUN, {"loading": 3.0})
    records.keep_uses("m", Uses(1.5, 1e9, (40.0, 50.5)))
    records.add_arrival("m", at=1.0)
    records.add_arrival("n", at=2.5)
    for seen in (records, reopened(database, records)):
        assert seen.need(RUN) == need
        assert list(seen.starts(RUN)) == [{"queued": 0.5, "loading": 2.0}, {"loading": 3.0}]
        assert seen.uses("m") == Uses(1.5, 1e9, (40.0, 50.5))
        assert list(seen.all_uses()) == [("m", Uses(1.5, 1e9, (40.0, 50.5)))]
        assert list(seen.arrivals()) == [(1.0, "m"), (2.5, "n")]


def test_nothing_is_known_of_strangers(database: Database) -> None:
    records = Records(database)
    assert records.need(RUN) is None
    assert list(records.starts(RUN)) == []
    assert records.uses("m") is None
    assert list(records.arrivals()) == []


def test_the_last_row_of_a_key_counts(database: Database) -> None:
    records = Records(database)
    for n in range(5):
        records.keep_need(RUN, Need({"cpu": n}))
    again = reopened(database, records)
    again.keep_need(RUN, Need({"cpu": 9}))
    assert reopened(database, again).need(RUN) == Need({"cpu": 9})
    assert rows(database, "needs") == 1


def test_starts_and_arrivals_are_the_last_ones(database: Database) -> None:
    records = Records(database)
    for n in range(STARTS_KEPT + 5):
        records.add_start(RUN, {"loading": float(n)})
    for n in range(ARRIVALS_KEPT + 5):
        records.add_arrival("m", at=float(n))
    again = reopened(database, records)
    assert [start["loading"] for start in again.starts(RUN)] == [float(n) for n in range(5, STARTS_KEPT + 5)]
    assert [at for at, _ in again.arrivals()] == [float(n) for n in range(5, ARRIVALS_KEPT + 5)]
    again.add_arrival("m", at=-1.0)
    last = reopened(database, again).arrivals()
    assert (len(last), last[0][0], last[-1][0]) == (ARRIVALS_KEPT, 6.0, -1.0)
    assert rows(database, "arrivals") == ARRIVALS_KEPT


def test_the_key_that_was_written_longest_ago_makes_room(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "MAX_MODELS", 3)
    records = Records(database)
    for name in ("a", "b", "c", "a", "d"):
        records.keep_uses(name, Uses(1.0, 0.0))
    assert [name for name, _ in records.all_uses()] == ["c", "a", "d"]
    again = reopened(database, records)
    assert [name for name, _ in again.all_uses()] == ["c", "a", "d"]
    assert rows(database, "histories") == 3


def test_a_row_that_is_not_understood_is_left_out(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(database)
    records.keep_need(RUN, Need({"cpu": 1}))
    records.keep_need(("other", *RUN[1:]), Need({"cpu": 2}))
    records.close()
    with database.writing() as connection:
        connection.execute(text("UPDATE needs SET peak = 'nonsense' WHERE model = 'm'"))
    again = Records(database)
    assert again.need(RUN) is None
    assert again.need(("other", *RUN[1:])) == Need({"cpu": 2})
    assert "a row of needs is not understood" in caplog.text


def test_a_damaged_table_is_told_and_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.db"
    database = Database.open(sqlite_url(path))
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE starts")
    raw.close()
    records = Records(database)
    assert "what was learned of models cannot be read" in caplog.text
    records.keep_need(RUN, Need({"cpu": 1}))
    assert records.need(RUN) == Need({"cpu": 1})
    records.close()
    database.close()


class Unreliable(Database):
    """A database whose writes fail while `broken`; counts them."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.broken = True
        self.tried = threading.Semaphore(0)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        try:
            if self.broken:
                raise ConfigError("the database x cannot grow: free some space on its disk")
            with super().writing() as connection:
                yield connection
        finally:
            self.tried.release()


def test_a_database_that_fails_is_told_once_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Unreliable.open(sqlite_url(tmp_path / "x.db"))
    journal = Journal(database, pause_s=0.0, retry_s=0.0)
    key = ("m", "e", "o", "cpu")
    for n in range(3):
        row = {"peak": str(n), "floor": "", "updated_at": SYSTEM_CLOCK.now()}
        journal.put(NEEDS, key, row)
        journal.append(ARRIVALS, {"at": float(n), "model": "m"}, limit=10)
        for _ in range(3):
            assert database.tried.acquire(timeout=30)
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.getMessage() for r in told] == [
        "what is learned of models is not kept for now: "
        "the database x cannot grow: free some space on its disk"
    ]
    database.broken = False
    journal.close()
    with database.reading() as connection:
        assert [tuple(r) for r in connection.execute(text("SELECT model, peak FROM needs"))] == [("m", "2")]
        assert [r.at for r in connection.execute(text("SELECT at FROM arrivals ORDER BY id"))] == [0, 1, 2]
    database.close()


def test_what_waits_for_a_failing_database_is_bounded(tmp_path: Path) -> None:
    database = Unreliable.open(sqlite_url(tmp_path / "x.db"))
    journal = Journal(database, pause_s=0.0, retry_s=0.0)
    for n in range(100):
        journal.append(ARRIVALS, {"at": float(n), "model": "m"}, limit=10)
        if n % 10 == 0:
            assert database.tried.acquire(timeout=30)
    database.broken = False
    journal.close()
    with database.reading() as connection:
        kept = [r.at for r in connection.execute(text("SELECT at FROM arrivals ORDER BY id"))]
    assert kept == [float(n) for n in range(90, 100)]
    database.close()


def plan(**options: object) -> Plan:
    variant = Variant.model_validate(
        {"format": "gguf", "source": {"kind": "local", "path": "/m.gguf"}, "engine": "e", "options": options}
    )
    spec = ModelSpec(name="m", family=Family.LLM, abilities=frozenset({"chat"}), variants=(variant,))  # type: ignore[arg-type]
    folder = Path("/nowhere")
    return Plan(model=spec, variant=0, weights=folder, bento=folder, device="cpu", threads=1)


def test_a_run_is_known_by_model_engine_options_and_device() -> None:
    key = RunKey.of(plan(context=512, parallel=2))
    assert key == RunKey.of(plan(parallel=2, context=512))
    assert key != RunKey.of(plan(context=512))
    assert (key.model, key.engine, key.device) == ("m", "e", "cpu")
    assert len(key.options) <= 32
