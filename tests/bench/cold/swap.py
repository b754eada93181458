"""A is loaded, B is asked for, and there is room for one: how long until B answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.bench.cold import ekiben, llama_router
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
from tests.bench.cold.pair import FIRST, SECOND, room_for_one
from tests.bench.cold.questions import Chat
from tests.bench.home import MODEL, weights_of
from tests.running import Platform

COLD: Final = "ekiben, B cold and nothing else loaded"
SWAP: Final = "ekiben, B cold in place of A"
SETTLED_S: Final = 3.0
"""A model that was just loaded is kept for a while by the platform, but no longer than this."""
ROUTER_SWAP: Final = "llama-server router, B cold in place of A"


def run(bench: Bench) -> Iterator[Row]:
    with room_for_one(bench, "swap") as running:

        @contextmanager
        def alone() -> Iterator[Shoot]:
            yield lambda: _alone(running)

        @contextmanager
        def swapped() -> Iterator[Shoot]:
            yield lambda: _swapped(running)

        contenders = [Contender(COLD, alone), Contender(SWAP, swapped), _router(bench)]
        shots, absent = alternate(contenders, rounds=bench.rounds)
    yield from rows_of(shots)
    yield from absent
    yield from number("swap / cold start", shots, ours=SWAP, theirs=COLD)
    yield from number("swap / router's swap", shots, ours=SWAP, theirs=ROUTER_SWAP)


def _alone(running: Platform) -> Shot:
    running.post(f"/api/models/{FIRST}/stop")
    return ekiben.shoot(running, SECOND, Chat(SECOND))


def _swapped(running: Platform) -> Shot:
    running.post(f"/api/models/{SECOND}/stop")
    Chat(FIRST)(running.url)
    time.sleep(SETTLED_S)
    shot = ekiben.shoot(running, SECOND, Chat(SECOND))
    assert running.model(FIRST)["state"] == "cold", "both were loaded: the budget was not kept"
    return shot


def _router(bench: Bench) -> Contender:
    @contextmanager
    def open_() -> Iterator[Shoot]:
        weights = weights_of(MODEL, bench.weights)
        flags = ["--models-max", "1"]
        with llama_router.router(bench, weights, models=[FIRST, SECOND], flags=flags) as peer:

            def shoot() -> Shot:
                Chat(FIRST)(peer.url)
                time.sleep(SETTLED_S)
                return Shot(seconds_of(lambda: Chat(SECOND)(peer.url)), {})

            yield shoot

    return Contender(ROUTER_SWAP, open_)
