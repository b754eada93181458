"""A is asked without a pause, B once, and there is room for one: B's wait, and what it costs A."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.bench.cold import llama_router
from tests.bench.cold.measure import Bench, Row, Unavailable, say, seconds_of, verdict
from tests.bench.cold.pair import FIRST, SECOND, room_for_one
from tests.bench.cold.questions import Chat
from tests.bench.home import MODEL, weights_of

CLIENTS: Final = 2
TOKENS: Final = 24
WATCH_S: Final = 12.0
B_AFTER_S: Final = 3.0
W_MAX_S: Final = 3.0
PEER_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """What A delivered in a stretch of time, and how long B waited in it."""

    tokens_per_s: float
    wait_s: float
    failures: int
    """Requests to A that were not answered."""


def run(bench: Bench) -> Iterator[Row]:
    with room_for_one(bench, "fairness") as running:

        def cool() -> None:
            running.post(f"/api/models/{SECOND}/stop")

        cold_s = statistics.median(_cold(running.url, cool) for _ in range(3))
        alone, beside = _stretches(running.url, cool, rounds=bench.rounds)
    waits = [stretch.wait_s for stretch in beside]
    loss = 1 - _rate(beside) / _rate(alone)
    limit = round(W_MAX_S + cold_s, 3)
    yield {"row": "ekiben: B cold, A idle", "median_s": round(cold_s, 3), "runs": 3}
    yield verdict(
        "ekiben: B's wait while A is busy, the longest",
        round(max(waits), 3),
        at_most=limit,
        median_s=round(statistics.median(waits), 3),
        runs=len(waits),
    )
    yield verdict(
        f"ekiben: A's loss of tokens by one request to B in {WATCH_S:g} s",
        round(loss, 3),
        at_most=0.1,
        alone_tokens_per_s=round(_rate(alone), 1),
        beside_tokens_per_s=round(_rate(beside), 1),
        runs=len(beside),
    )
    failures = sum(stretch.failures for stretch in (*alone, *beside))
    yield verdict("ekiben: requests to A that failed", failures, at_most=0)
    yield _peer(bench)


def _peer(bench: Bench) -> Row:
    row = "llama-server router: B's wait while A is busy"
    weights = weights_of(MODEL, bench.weights)
    try:
        with llama_router.router(
            bench, weights, models=[FIRST, SECOND], flags=["--models-max", "1"]
        ) as router:
            alone, beside = _stretches(router.url, lambda: router.unload(SECOND), rounds=PEER_ROUNDS)
    except Unavailable as reason:
        return {"row": row, "unavailable": str(reason)}
    waits = [stretch.wait_s for stretch in beside]
    return {
        "row": row,
        "median_s": round(statistics.median(waits), 3),
        "longest_s": round(max(waits), 3),
        "alone_tokens_per_s": round(_rate(alone), 1),
        "beside_tokens_per_s": round(_rate(beside), 1),
        "failed_requests_to_a": sum(stretch.failures for stretch in (*alone, *beside)),
        "runs": len(waits),
    }


def _cold(url: str, cool: Callable[[], None]) -> float:
    cool()
    return seconds_of(lambda: Chat(SECOND)(url))


def _rate(stretches: list[Stretch]) -> float:
    return statistics.median(stretch.tokens_per_s for stretch in stretches)


def _stretches(url: str, cool: Callable[[], None], *, rounds: int) -> tuple[list[Stretch], list[Stretch]]:
    """A alone and A beside B, alternating."""
    alone: list[Stretch] = []
    beside: list[Stretch] = []
    for number in range(rounds):
        cool()
        alone.append(_stretch(url, with_b=False))
        beside.append(_stretch(url, with_b=True))
        say(
            f"  round {number + 1} of {rounds}: A alone {alone[-1].tokens_per_s:.0f} tokens/s, "
            f"beside B {beside[-1].tokens_per_s:.0f}; B waited {beside[-1].wait_s:.2f} s"
        )
    return alone, beside


def _stretch(url: str, *, with_b: bool) -> Stretch:
    Chat(FIRST)(url)  # loaded, before the clock runs
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        clients = [pool.submit(_hammer, url, over) for _ in range(CLIENTS)]
        wait_s = 0.0
        if with_b:
            time.sleep(B_AFTER_S)
            wait_s = seconds_of(lambda: Chat(SECOND)(url))
        time.sleep(max(0.0, started + WATCH_S - time.perf_counter()))
        over.set()
        elapsed_s = time.perf_counter() - started
        tokens, failures = (sum(column) for column in zip(*(c.result() for c in clients), strict=True))
    return Stretch(tokens / elapsed_s, wait_s, failures)


def _hammer(url: str, over: threading.Event) -> tuple[int, int]:
    """Pieces of answers that came until it was over, and requests that failed."""
    count = failures = 0
    while not over.is_set():
        try:
            for _ in Chat(FIRST, prompt=f"Count from {count}.").pieces(url, max_tokens=TOKENS):
                count += not over.is_set()
        except OSError:
            failures += 1
    return count, failures
