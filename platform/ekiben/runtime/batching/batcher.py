"""The batcher of a loaded model: one loop that decides, one thread that prepares, one that computes.

Everything is decided on the event loop, when something has happened: a request came or left, a batch is done,
or the time that was worth waiting is over. It owns queue and threads; what goes together and when is decided
by `selection` and `pacing`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.batching import Batching, GivenUp, Item, Packed
from ekiben.contract.threads import WorkerThread
from ekiben.errors import EkibenError, EngineError, EngineTimeout, QueueFull, ShuttingDown
from ekiben.runtime.batching.batch import Batch, timed
from ekiben.runtime.batching.desk import Desk
from ekiben.runtime.batching.jobs import END, Job
from ekiben.runtime.batching.pacing import Crowd, Expected, Pace, linger_s
from ekiben.runtime.batching.selection import Choice, Limits, Reason, choose

logger = logging.getLogger(__name__)

MAX_REQUESTS: Final = 1024
"""Under way at once. One costs little more than its body, which is here already."""
MAX_ITEMS: Final = 2**16
"""That wait at once. A single request may have more, if nothing else waits."""
PATIENCE_S: Final = 600.0
"""How long a client is kept waiting for its answer, or for the next part of one."""
_NO_TIME_S: Final = 0.001
"""What takes less to prepare is not prepared ahead: whoever comes meanwhile can still join."""


class Watch(Protocol):
    """Is told what happens, for the metrics."""

    def waited(self, ability: str, seconds: float) -> None:
        """From a request's coming until the first of it left in a batch."""

    def left(self, ability: str, choice: Choice) -> None:
        """A batch."""


class Lane:
    """One Batching of the model, and what is known of it."""

    def __init__(self, name: str, batching: Batching[Any, Any, Any, Any], *, target_s: float | None) -> None:
        self.name = name
        self.batching = batching
        self.packs = isinstance(batching, Packed) and batching.packs
        self.pace = Pace(target_s)
        self.crowd = Crowd()


class Batcher:
    """Of one model; all of its lanes share the two threads, since they share the model."""

    def __init__(
        self,
        *,
        watch: Watch | None = None,
        clock: Clock = SYSTEM_CLOCK,
        max_requests: int = MAX_REQUESTS,
        max_items: int = MAX_ITEMS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._max_requests = max_requests
        self._max_items = max_items
        self._patience_s = patience_s
        self._preparing = WorkerThread("prepare")
        self._computing = WorkerThread("compute")
        self._desk = Desk(self._preparing)
        self._jobs: dict[Job, Lane] = {}
        self._retries: deque[Batch] = deque()
        self._running: Batch | None = None
        self._driver: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    async def run(self, lane: Lane, request: Any, *, patience_s: float | None = None) -> Any:
        """The whole answer. Raises QueueFull, EngineTimeout, and what the engine finds wrong.

        `patience_s`: how long this client waits, if less than any does.
        """
        async with self._patience(patience_s), self._admitted(lane, request, streamed=False) as job:
            await job.done
            with _told_as_engine_error():
                return await self._desk.run(lane.batching.answer, request, job.in_order())

    async def stream(
        self, lane: Lane, request: Any, *, patience_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Results in order, and news of all items, as they come. Raises as `run` does."""
        async with AsyncExitStack() as stack:
            async with self._patience(patience_s):
                job = await stack.enter_async_context(self._admitted(lane, request, streamed=True))
            while True:
                async with self._patience(patience_s):
                    told = await job.outlet.get()
                if told is END:
                    break
                self._stir(job)
                yield told
            await job.done

    async def rest(self) -> None:
        """Returns when nothing of the model's is in the threads. Only while there are no requests."""
        if self._work is not None:
            await asyncio.wait({self._work})

    async def close(self) -> None:
        """Send away who still waits, and end the threads."""
        self._closed = True
        for job in list(self._jobs):
            job.fail(ShuttingDown("the model is being unloaded: try again"))
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait({self._driver})
        await self.rest()
        self._preparing.close()
        self._computing.close()

    # Coming and going

    @asynccontextmanager
    async def _admitted(self, lane: Lane, request: Any, *, streamed: bool) -> AsyncGenerator[Job, None]:
        """A job, for as long as somebody waits for it."""
        self._check_room(len(self._jobs) < self._max_requests)
        job = Job(lane.name, request, self._clock.monotonic(), streamed)
        reading: asyncio.Task[None] | None = None
        self._jobs[job] = lane
        try:
            with _told_as_engine_error():
                items = await self._desk.run(_items, lane.batching, request)
            lane.crowd.came(self._clock.monotonic())
            if isinstance(items, list):
                self._check_items(job, len(items))
                self._add(job, items)
            else:
                reading = asyncio.create_task(self._read(job, items), name="read items")
            self._start()
            yield job
        finally:
            if reading is not None:
                reading.cancel()
            self._leave(job)

    def _check_items(self, job: Job, count: int) -> None:
        waiting = sum(other.waiting_count for other in self._jobs)
        self._check_room(not waiting or waiting + count <= self._max_items)

    def _check_room(self, room: bool) -> None:
        if self._closed:
            raise ShuttingDown("the model is being unloaded: try again")
        if not room:
            raise QueueFull(
                "too many requests wait for this model: try again later", retry_after_s=self._drain_s()
            )

    def _drain_s(self) -> float:
        """How long it takes to compute half of what waits."""
        seconds = 0.0
        for job, lane in self._jobs.items():
            seconds += lane.pace.fixed_s / max(1, lane.batching.max_items)
            seconds += job.waiting_length * lane.pace.per_area_s
        return max(1.0, seconds / 2)

    def _add(self, job: Job, items: Iterable[Item[Any]], *, complete: bool = True) -> None:
        for item in items:
            job.add(item)
        job.complete = complete
        if complete and not job.count:
            job.fail(EngineError("the engine made nothing to compute of this request"))
        job.end_if_complete()
        self._wake.set()

    async def _read(self, job: Job, items: Iterator[Item[Any] | None]) -> None:
        """Keep at hand what the next batch can take."""
        ahead = self._jobs[job].batching.max_items
        try:
            async with aclosing(self._preparing.iterate(lambda: items)) as read:
                async for item in read:
                    if item is None:
                        continue
                    self._add(job, [item], complete=False)
                    while job.waiting_count >= ahead or job.outlet.qsize() > ahead:
                        job.taken.clear()
                        await job.taken.wait()
            self._add(job, [])
        except Exception as error:  # noqa: BLE001 - told to the client
            job.fail(_as_engine_error(error))
            self._wake.set()

    def _stir(self, job: Job) -> None:
        """Its client has taken something, so there may be room."""
        job.taken.set()
        self._wake.set()

    def _leave(self, job: Job) -> None:
        job.forget()
        self._jobs.pop(job, None)
        if job.done.done() and not job.done.cancelled():
            job.done.exception()  # of a stream that was closed before it was told
        self._wake.set()

    @asynccontextmanager
    async def _patience(self, seconds: float | None) -> AsyncGenerator[None, None]:
        most_s = min(self._patience_s, seconds or math.inf)
        try:
            async with asyncio.timeout(most_s):
                yield
        except TimeoutError as error:
            raise EngineTimeout(
                f"the model had no answer within {most_s:g} s: it has too much to do, try again"
            ) from error

    # Batch after batch

    def _start(self) -> None:
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive(), name="batches")

    async def _drive(self) -> None:
        """Until there are no requests any more."""
        try:
            await self._drive_on()
        except Exception as error:  # noqa: BLE001 - told to the clients, who would wait in vain
            for job in list(self._jobs):
                job.fail(_as_engine_error(error))

    async def _drive_on(self) -> None:
        """The next batch is prepared while one is computed."""
        while self._jobs:
            batch = await self._next()
            if batch is None:
                continue
            prepared = await self._prepare(batch)
            if self._work is not None:
                await asyncio.wait({self._work})
            if prepared and batch.wanted:
                self._running = batch
                self._work = asyncio.create_task(self._compute(batch), name="compute a batch")

    async def _next(self) -> Batch | None:
        """The batch that is to leave now; None: there are no requests left."""
        lingered = False
        while self._jobs:
            self._wake.clear()
            while self._retries:
                if (batch := self._retries.popleft()).wanted:
                    again = [(0, queued) for _, queued in batch.picks]
                    self._note(batch, Choice(again, Reason.RETRY, batch.lane.packs))
                    return batch
            now_s = self._clock.monotonic()
            jobs = [job for job in self._jobs if job.waiting and job.outlet.qsize() < self._most(job)]
            wait_s: float | None = None
            if jobs:
                lane = self._jobs[min(jobs, key=lambda job: job.turn_s)]
                choice = choose(jobs, self._limits(lane, jobs))
                wait_s = self._wait_s(lane, choice, now_s)
                if wait_s == 0:
                    return self._formed(lane, jobs, choice, lingered=lingered, now_s=now_s)
                lingered = lingered or self._running is None
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
        return None

    def _most(self, job: Job) -> int:
        """Results of a stream that may lie untaken before no more are made."""
        return 4 * self._jobs[job].batching.max_items + 64

    def _limits(self, lane: Lane, jobs: Sequence[Job]) -> Limits:
        batching = lane.batching
        waiting = sum(job.waiting_length for job in jobs if self._jobs[job] is lane)
        return lane.pace.limits(
            max_items=max(1, batching.max_items),
            max_length=batching.max_length,
            packed=lane.packs,
            waiting=waiting,
        )

    def _wait_s(self, lane: Lane, choice: Choice, now_s: float) -> float | None:
        """Until the batch is to be prepared: 0, now; None: until something happens."""
        running, pace = self._running, lane.pace
        full = choice.reason is Reason.FULL and pace.known
        if running is not None and not full:  # others may join it
            if running.ends_s is None or pace.prepare_s < _NO_TIME_S:
                return None
            if (early_s := running.ends_s - pace.prepare_s - now_s) > 0:
                return early_s
        if choice.reason is not Reason.ALL:
            return 0.0
        expected = lane.crowd.expected(now_s)
        if running is not None:  # those whom it answers come back after it
            soon_s = pace.prepare_s + lane.crowd.after_s
            more = running.requests * lane.crowd.share
            expected = Expected(more, soon_s=soon_s, late_s=-soon_s, apart_s=lane.crowd.apart_s)
        batch_s = pace.predicted_s(choice.area)
        wait_s = linger_s(expected, waiting=choice.requests, batch_s=batch_s, fixed_s=pace.fixed_s)
        return None if wait_s and running is not None else wait_s

    def _formed(
        self, lane: Lane, jobs: Sequence[Job], choice: Choice, *, lingered: bool, now_s: float
    ) -> Batch:
        picks = [(jobs[index], queued) for index, queued in choice.picks]
        for job, queued in picks:
            if not job.served and self._watch is not None:
                self._watch.waited(lane.name, now_s - job.arrived_s)
            job.take(queued, now_s=now_s)
        if lingered and choice.reason is Reason.ALL:
            choice = replace(choice, reason=Reason.LINGERED)
        batch = Batch(lane, picks)
        self._note(batch, choice)
        return batch

    def _note(self, batch: Batch, choice: Choice) -> None:
        if self._watch is not None:
            self._watch.left(batch.lane.name, choice)

    async def _prepare(self, batch: Batch) -> bool:
        """Whether there is something to compute."""
        values = [queued.item.value for _, queued in batch.picks]
        try:
            batch.prepared, seconds = await self._preparing.run(timed, batch.lane.batching.prepare, values)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._failed(batch, error)
            return False
        batch.lane.pace.prepared(seconds)
        return True

    async def _compute(self, batch: Batch) -> None:
        pace = batch.lane.pace
        predicted_s = pace.predicted_s(batch.area)
        batch.ends_s = None if predicted_s is None else self._clock.monotonic() + predicted_s
        compute = batch.lane.batching.compute
        try:
            results, seconds = await self._computing.run(timed, compute, batch.prepared, batch)
            if len(results) != len(batch.picks):
                raise EngineError(f"the engine computed {len(results)} of {len(batch.picks)} items")
        except GivenUp as error:
            if batch.wanted:
                self._failed(batch, error)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._failed(batch, error)
        else:
            pace.computed(area=batch.area, longest=batch.longest, seconds=seconds)
            for (job, queued), result in zip(batch.picks, results, strict=True):
                job.deliver(queued.index, result)
        finally:
            batch.prepared = None
            ended = sum(job.done.done() for job in batch.jobs)
            batch.lane.crowd.answered(self._clock.monotonic(), requests=ended)
            self._running = None
            self._wake.set()

    def _failed(self, batch: Batch, error: Exception) -> None:
        """Of several items, each half is tried anew, as far as it is wanted still."""
        if len(batch.picks) > 1:
            self._retries.extend(batch.halves())
        else:
            batch.picks[0][0].fail(_as_engine_error(error))


def _items(
    batching: Batching[Any, Any, Any, Any], request: Any
) -> list[Item[Any]] | Iterator[Item[Any] | None]:
    items: Any = batching.items(request)
    return list(items) if isinstance(items, Sequence) else iter(items)


@contextmanager
def _told_as_engine_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _as_engine_error(error) from error


def _as_engine_error(error: Exception) -> EkibenError:
    if isinstance(error, EkibenError):
        return error
    logger.error("the engine failed in a way that nobody foresaw", exc_info=error)
    return EngineError(f"the engine failed on this request: {type(error).__name__}")
