"""How models were used outlives the platform, though its clock does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ekiben.clock import SystemClock
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.state import Rules
from ekiben.fleet.histories import KEEP_EVERY_S, Histories
from ekiben.fleet.policy.history import HALF_LIFE_S, History
from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Records
from tests.unit.fleet_in_hand import PlainPolicy


class Clock(SystemClock):
    """Both times go on together; `boot` makes the monotonic one begin anew."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.booted = -5000.0

    def monotonic(self) -> float:
        return self.seconds - self.booted

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def boot(self) -> None:
        self.booted = self.seconds


def core() -> FleetCore:
    return FleetCore(Rules(start_timeout_s=60, drain_s=30, max_waiting=10), PlainPolicy())


def test_rate_and_idle_times_go_on_after_a_restart(tmp_path: Path) -> None:
    clock, database = Clock(), Database.open(sqlite_url(tmp_path / "db"))
    records, before = Records(database), core()
    before.remember("m", History().after_idling(90.0).after_use(clock.monotonic()))
    Histories(before, records, clock=clock).used("m")
    records.close()

    clock.seconds += HALF_LIFE_S
    clock.boot()
    after = core()
    Histories(after, Records(database), clock=clock).restore({"m"})
    history = after.models["m"].history
    assert history.gaps_s == (90.0,)
    assert history.rate(clock.monotonic()) == pytest.approx(0.5)
    database.close()


def test_what_left_the_catalog_is_not_restored(tmp_path: Path) -> None:
    clock, database = Clock(), Database.open(sqlite_url(tmp_path / "db"))
    records, before = Records(database), core()
    before.remember("gone", History().after_use(clock.monotonic()))
    Histories(before, records, clock=clock).used("gone")
    after = core()
    Histories(after, records, clock=clock).restore({"m"})
    assert after.models == {}
    records.close()
    database.close()


def test_a_burst_is_kept_once_and_its_end_with_the_next_use(tmp_path: Path) -> None:
    clock, database = Clock(), Database.open(sqlite_url(tmp_path / "db"))
    records, fleet = Records(database), core()
    histories, history = Histories(fleet, records, clock=clock), History()
    for seconds in (0.0, 1.0, 2.0, KEEP_EVERY_S):
        clock.seconds = seconds
        history = history.after_use(clock.monotonic())
        fleet.remember("m", history)
        histories.used("m")
        if seconds == 2.0:
            assert (known := records.uses("m")) is not None and known.uses == 1.0
    assert (known := records.uses("m")) is not None and known.uses > 3.0
    records.close()
    database.close()
