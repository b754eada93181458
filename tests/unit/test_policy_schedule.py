"""Cron lines in the zone of the machine, over the changes of its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.clock import LOCAL_ZONE
from ekiben.fleet.policy.schedule import next_due

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def due(lines: list[str], after: str, count: int = 1) -> list[str]:
    """The next moments in UTC, each asked for right after the one before."""
    moment, found = datetime.fromisoformat(after).replace(tzinfo=UTC), []
    for _ in range(count):
        following = next_due(lines, moment.astimezone(LOCAL_ZONE))
        assert following is not None
        moment = following
        found.append(moment.strftime("%m-%d %H:%M"))
    return found


def test_lines_are_read_in_local_time(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert due(["30 8 * * 1-5"], "2026-11-20 12:00") == ["11-23 07:30"]  # a Friday noon, winter
    zone("UTC")
    assert due(["30 8 * * 1-5"], "2026-11-20 12:00") == ["11-23 08:30"]


def test_the_first_of_several_lines_is_due(zone: Callable[[str], None]) -> None:
    zone("UTC")
    assert due(["0 9 * * *", "0 7 * * *", "0 8 * * 6"], "2026-11-20 07:30", 4) == [
        "11-20 09:00",
        "11-21 07:00",
        "11-21 08:00",
        "11-21 09:00",
    ]


def test_the_same_hour_in_summer_and_winter(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert due(["0 9 * * *"], "2026-03-27 12:00", 2) == ["03-28 08:00", "03-29 07:00"]
    assert due(["0 9 * * *"], "2026-10-23 12:00", 2) == ["10-24 07:00", "10-25 08:00"]


def test_a_time_that_the_clock_skips_is_due_after_the_gap(zone: Callable[[str], None]) -> None:
    zone(BERLIN)  # 02:00 to 03:00 on the 29th of March does not exist
    assert due(["30 2 * * *"], "2026-03-28 12:00", 2) == ["03-29 01:00", "03-30 00:30"]


def test_a_time_that_the_clock_shows_twice_is_due_once(zone: Callable[[str], None]) -> None:
    zone(BERLIN)  # 02:00 to 03:00 on the 25th of October comes twice
    assert due(["30 2 * * *"], "2026-10-24 12:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_every_half_hour_is_every_half_hour_in_autumn_too(zone: Callable[[str], None]) -> None:
    zone(BERLIN)
    assert due(["*/30 * * * *"], "2026-10-24 23:45", 5) == [
        "10-25 00:00",
        "10-25 00:30",
        "10-25 01:00",
        "10-25 01:30",
        "10-25 02:00",
    ]


def test_no_lines_are_never_due(zone: Callable[[str], None]) -> None:
    assert next_due([], datetime.now(UTC)) is None


@pytest.mark.parametrize("name", ["UTC", BERLIN, "NPT-5:45", "EST5EDT,M3.2.0,M11.1.0"])
def test_local_time_names_every_moment_and_no_other(name: str, zone: Callable[[str], None]) -> None:
    zone(name)

    @given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)))
    def check(naive: datetime) -> None:
        moment = naive.replace(tzinfo=UTC)
        assert moment.astimezone(LOCAL_ZONE).astimezone(UTC) == moment

    check()


@pytest.mark.parametrize("name", ["UTC", BERLIN])
def test_what_is_due_lies_ahead_and_is_not_skipped(name: str, zone: Callable[[str], None]) -> None:
    """Asked at any moment, the answer is later than that moment and moves only when it has passed."""
    zone(name)

    @given(
        st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
        st.sampled_from(["0 9 * * 1-5", "30 2 * * *", "*/20 * * * *", "15 */6 1 * *"]),
    )
    def check(naive: datetime, line: str) -> None:
        moment = naive.replace(tzinfo=UTC)
        found = next_due([line], moment.astimezone(LOCAL_ZONE))
        assert found is not None and found > moment
        halfway = moment + (found - moment) / 2
        if halfway + timedelta(seconds=1) < found:
            assert next_due([line], halfway.astimezone(LOCAL_ZONE)) == found

    check()
