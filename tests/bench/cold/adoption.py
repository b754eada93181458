"""The platform is killed and started again: how long until a model that was loaded answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.bench.cold import ekiben
from tests.bench.cold.measure import (
    Bench,
    Contender,
    Row,
    Shoot,
    Shot,
    alternate,
    number,
    rows_of,
    seconds_of,
)
from tests.bench.cold.questions import Chat
from tests.bench.home import MODEL
from tests.running import Platform

ADOPTED: Final = "ekiben killed, up to an answer of the same replica"
COLD: Final = "ekiben killed, up to an answer of a new replica"


def run(bench: Bench) -> Iterator[Row]:
    shots, _ = alternate(
        [_contender(bench, ADOPTED, adopt=True), _contender(bench, COLD, adopt=False)], rounds=bench.rounds
    )
    yield from rows_of(shots)
    yield from number("re-adopted / cold", shots, ours=ADOPTED, theirs=COLD)


def _contender(bench: Bench, name: str, *, adopt: bool) -> Contender:
    @contextmanager
    def open_() -> Iterator[Shoot]:
        with ekiben.platform(bench, "adopted" if adopt else "cold") as running:
            Chat(MODEL)(running.url)
            yield lambda: _shoot(running, adopt=adopt)

    return Contender(name, open_)


def _shoot(running: Platform, *, adopt: bool) -> Shot:
    Chat(MODEL)(running.url)
    before = running.replica_pid(MODEL)
    if not adopt:
        running.post(f"/api/models/{MODEL}/stop")
    running.kill()
    up = seconds_of(running.start)
    answer = seconds_of(lambda: Chat(MODEL)(running.url))
    same = running.replica_pid(MODEL) == before
    assert same == adopt, f"the same replica: {same}"
    return Shot(up + answer, {"up": up, "answer": answer})
