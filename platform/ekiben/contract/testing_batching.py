"""The part of the conformance suite that is about batching: what a `Batching` gives when it is driven.

Reached through `ekiben.contract.testing`. The driver here is as simple as one can be: it computes each
request by itself, in batches of its own. Clients are served by the runtime's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ekiben.contract.batching import Batched, Batching, Item
from ekiben.contract.conforming import expect
from ekiben.contract.fronts import front
from ekiben.contract.model import Ability
from ekiben.contract.threads import WorkerThread


def able(model: object, ability: Ability) -> Any:
    """An object of the ability's protocol: the model itself, or its batching, driven."""
    if isinstance(model, Batched) and ability in model.batching:
        return front(ability, Alone(model.batching[ability]))
    return model


@dataclass
class Alone:
    """Computes each request by itself, batch after batch, in the order of its items."""

    batching: Batching[Any, Any, Any, Any]
    _preparing: WorkerThread = field(default_factory=lambda: WorkerThread("prepare"))
    _computing: WorkerThread = field(default_factory=lambda: WorkerThread("compute"))

    async def run(self, request: Any) -> Any:
        results: list[Any] = []
        async with aclosing(self._told(request)) as told:
            results += [value async for of_item, value in told if of_item]
        return await self._preparing.run(self.batching.answer, request, results)

    async def stream(self, request: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(self._told(request)) as told:
            async for _, value in told:
                yield value

    async def _told(self, request: Any) -> AsyncGenerator[tuple[bool, Any], None]:
        """Results and news; of each, whether it is a result."""
        expect(self.batching.max_items >= 1, "max_items is at least 1")
        async with aclosing(self._preparing.iterate(lambda: self._batches(request))) as batches:
            async for values in batches:
                async with aclosing(self._batch(values)) as told:
                    async for news in told:
                        yield news

    async def _batch(self, values: list[Any]) -> AsyncGenerator[tuple[bool, Any], None]:
        prepared = await self._preparing.run(self.batching.prepare, values)
        run = _Run(asyncio.get_running_loop())
        computing = asyncio.ensure_future(self._computing.run(self.batching.compute, prepared, run))
        computing.add_done_callback(run.end)
        try:
            while (news := await run.news.get()) is not run:
                yield False, news
            results = await computing
        finally:
            run.wanted = False
            await asyncio.wait({computing})
        expect(len(results) == len(values), "compute gives one result for each item")
        for result in results:
            yield True, result

    def _batches(self, request: Any) -> Iterator[list[Any]]:
        """The values of items that may be computed together, as they follow each other."""
        batch: list[Item[Any]] = []
        count = 0
        for item in filter(None, self.batching.items(request)):
            count += 1
            expect(item.length >= 0, "an item's length is not negative")
            if batch and not self._fits(batch, item):
                yield [held.value for held in batch]
                batch = []
            batch.append(item)
        expect(count, "there is at least one item of each request")
        yield [held.value for held in batch]

    def _fits(self, batch: list[Item[Any]], item: Item[Any]) -> bool:
        longest = max(item.length, *(held.length for held in batch))
        limit = self.batching.max_length
        return (
            item.group == batch[0].group
            and len(batch) < self.batching.max_items
            and (limit is None or (len(batch) + 1) * longest <= limit)
        )


class _Run:
    """One batch under way, for one request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.news: asyncio.Queue[Any] = asyncio.Queue()
        self.wanted = True

    def end(self, computing: asyncio.Future[Any]) -> None:
        """The last news is the run itself."""
        self.news.put_nowait(self)

    def waits_for(self, index: int) -> bool:
        return self.wanted

    def tell(self, index: int, news: object) -> None:
        self._loop.call_soon_threadsafe(self.news.put_nowait, news)
