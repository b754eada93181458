"""Pictures under names that nobody can guess: how long they are kept, and what is no name of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ekiben.store.pictures import NAME, PictureStore


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 3, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> PictureStore:
    return PictureStore(tmp_path / "pictures", keep_s=60, clock=clock, max_bytes=100)


def test_a_picture_comes_back_as_it_was_for_a_while(
    store: PictureStore, clock: Clock, tmp_path: Path
) -> None:
    name = store.save(b"picture", "png")
    assert NAME.fullmatch(name)
    assert store.read(name) == b"picture"
    clock.at += timedelta(seconds=59)
    assert store.read(name) == b"picture"
    clock.at += timedelta(seconds=1)
    assert store.read(name) is None
    store.sweep()
    assert list((tmp_path / "pictures").iterdir()) == []


def test_nobody_else_of_this_machine_may_look(store: PictureStore, tmp_path: Path) -> None:
    store.save(b"picture", "png")
    assert (tmp_path / "pictures").stat().st_mode & 0o077 == 0


def test_names_have_nothing_in_common(store: PictureStore) -> None:
    first, second = store.save(b"a", "png"), store.save(b"a", "png")
    assert sum(a == b for a, b in zip(first[:43], second[:43], strict=True)) < 20


def test_the_oldest_make_room(store: PictureStore, clock: Clock) -> None:
    names = []
    for _ in range(3):
        names.append(store.save(b"x" * 40, "webp"))
        clock.at += timedelta(seconds=1)
    assert [store.read(name) is not None for name in names] == [False, True, True]


@pytest.mark.parametrize(
    "name", ["", "..", "../ekiben.db", "a.png", "A" * 43 + ".svg", "A" * 43 + ".png/", "\0"]
)
def test_what_is_no_name_is_not_looked_for(store: PictureStore, name: str) -> None:
    assert store.read(name) is None


def test_no_name_has_no_picture(store: PictureStore) -> None:
    store.sweep()
    assert store.read("A" * 43 + ".png") is None
