"""Several requests to a cold model at once, beside a single one: by the platform, and by the router."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from tests.bench.cold import ekiben, llama_router
from tests.bench.cold.measure import Bench, Contender, Row, Shoot, Shot, alternate, number, rows_of
from tests.bench.cold.questions import Ask, Chat
from tests.bench.home import MODEL, weights_of
from tests.running import Platform

CROWD: Final = 8
SINGLE: Final = "ekiben, one cold request"
LAST: Final = f"ekiben, {CROWD} cold at once, the last"
ROUTER_SINGLE: Final = "llama-server router, one cold request"
ROUTER_LAST: Final = f"llama-server router, {CROWD} cold at once, the last"


def run(bench: Bench) -> Iterator[Row]:
    weights = weights_of(MODEL, bench.weights)
    single, last = Chat(MODEL), at_once(Chat(MODEL))
    with ekiben.platform(bench, "crowd") as running:

        @contextmanager
        def one() -> Iterator[Shoot]:
            yield lambda: ekiben.shoot(running, MODEL, single)

        @contextmanager
        def many() -> Iterator[Shoot]:
            yield lambda: _one_start(running, last)

        shots, absent = alternate(
            [
                Contender(SINGLE, one),
                Contender(LAST, many),
                llama_router.cold(bench, weights, name=ROUTER_SINGLE),
                llama_router.cold(bench, weights, name=ROUTER_LAST, crowd=at_once),
            ],
            rounds=bench.rounds,
        )
    yield from rows_of(shots)
    yield from absent
    yield from number(f"{CROWD} cold at once / one", shots, ours=LAST, theirs=SINGLE, at_most=1.5)
    yield from number(f"router: {CROWD} cold at once / one", shots, ours=ROUTER_LAST, theirs=ROUTER_SINGLE)


def at_once(ask: Ask) -> Ask:
    """All of them; returns with the last answer, and fails if one of them does."""

    def crowd(url: str) -> None:
        with ThreadPoolExecutor(CROWD) as pool:
            for outcome in [pool.submit(ask, url) for _ in range(CROWD)]:
                outcome.result()

    return crowd


def _one_start(running: Platform, last: Ask) -> Shot:
    shot = ekiben.shoot(running, MODEL, last)
    assert len(running.model(MODEL)["replicas"]) == 1, "there was more than one start"
    return shot
