"""What a replica counts of its `/v1` requests and of its batches, beside what BentoML counts of
its own routes.

Imported only once the process knows its PROMETHEUS_MULTIPROC_DIR, which prometheus_client reads at
import. Labels are bounded: a route is one that exists, or `other`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.engine import Countable
from ekiben.errors import EngineError
from ekiben.runtime.batching.selection import Choice

CLIENT_GONE: Final = 499
"""The status of a request whose client left before the answer began."""

_REQUESTS = Counter("ekiben_replica_requests", "Requests to /v1 that have ended", ["route", "status"])
_DURATION = Histogram(
    "ekiben_replica_request_duration_seconds",
    "Time from a request's first byte to its answer's last",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
_IN_FLIGHT = Gauge(
    "ekiben_replica_requests_in_flight",
    "Requests to /v1 under way",
    multiprocess_mode="livesum",
)
_BATCHES = Counter("ekiben_replica_batches", "Batches that were computed", ["ability", "reason"])
_BATCH_ITEMS = Histogram(
    "ekiben_replica_batch_items",
    "Items of a batch, which may be of several requests",
    ["ability"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
_BATCH_PADDING = Histogram(
    "ekiben_replica_batch_padding_ratio",
    "Share of a batch that was padding: its items are computed as if all were as long as the longest",
    ["ability"],
    buckets=(0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1),
)
_BATCH_WAIT = Histogram(
    "ekiben_replica_batch_wait_seconds",
    "Time from a request's coming until the first of it left in a batch",
    ["ability"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class BatchMetrics:
    """What the batcher tells of."""

    def waited(self, ability: str, seconds: float) -> None:
        _BATCH_WAIT.labels(ability).observe(seconds)

    def left(self, ability: str, choice: Choice) -> None:
        _BATCHES.labels(ability, choice.reason.value).inc()
        _BATCH_ITEMS.labels(ability).observe(len(choice.picks))
        _BATCH_PADDING.labels(ability).observe(choice.padding / max(1, choice.area))


_AT_WORK = Gauge(
    "ekiben_engine_answers_at_work",
    "Answers that hold a slot or a row of the engine, by its own count; not a number: it does not say",
    multiprocess_mode="livesum",
)
_TOKENS = Counter(
    "ekiben_engine_tokens_made", "Tokens of answers; of those that were cancelled, the ones made until then"
)
_COUNT_S: Final = 0.5


class _Follower:
    """A counter of what somebody else counts."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._told = 0

    def reach(self, count: int) -> None:
        """It has become so many."""
        self._counter.inc(max(0, count - self._told))
        self._told = max(self._told, count)


_tokens = _Follower(_TOKENS)


async def count_at_work(model: Countable) -> None:
    """Ask its engine what it has in hand, for whoever reads the metrics next. Bounded in time."""
    _tokens.reach(model.tokens_made)
    try:
        async with asyncio.timeout(_COUNT_S):
            _AT_WORK.set(await model.answers_at_work())
    except (EngineError, TimeoutError):
        _AT_WORK.set(math.nan)


class Outcome:
    """What became of a request; `status` is set when its answer begins."""

    status: int = CLIENT_GONE


@contextmanager
def observed(route: str) -> Iterator[Outcome]:
    """Counts what happens within as one request."""
    outcome = Outcome()
    started_s = SYSTEM_CLOCK.monotonic()
    _IN_FLIGHT.inc()
    try:
        yield outcome
    finally:
        _IN_FLIGHT.dec()
        _DURATION.labels(route).observe(SYSTEM_CLOCK.monotonic() - started_s)
        _REQUESTS.labels(route, str(outcome.status)).inc()
