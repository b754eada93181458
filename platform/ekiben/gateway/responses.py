"""`/v1/responses` with a memory: what is kept, gone on from, run in the background, listed and deleted.

Models answer without one, so a request that goes on from an earlier response is sent to them with all of its
items. A request that wants nothing of this passes through as it came.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec

from ekiben.clock import Clock
from ekiben.contract.model import Ability
from ekiben.errors import ConfigError, InvalidRequest, NotFound
from ekiben.fleet.types import Prefix
from ekiben.gateway.answers import Answer, Manner, json_answer
from ekiben.gateway.body import Body
from ekiben.gateway.exchange import Exchange
from ekiben.gateway.inference import check_ability
from ekiben.gateway.ports import CatalogPort
from ekiben.gateway.prefixes import item_prefixes, response_prefixes
from ekiben.gateway.proxy import Job, Proxy
from ekiben.gateway.responses_background import STOPPED, Background, Run, Serve
from ekiben.gateway.responses_input import as_items, is_reference, kept_items, page_of
from ekiben.gateway.responses_recorder import Keep, Recorder
from ekiben.gateway.routes import Route
from ekiben.gateway.target import JSON_TYPE, Target, read_target
from ekiben.responses import (
    OPENING_EVENTS,
    blank_response,
    failed,
    new_response_id,
    response_of_item,
)
from ekiben.store.responses import ResponseStore, StoredResponse

logger = logging.getLogger(__name__)

PATH: Final = "/v1/responses"
PRUNE_EVERY_S: Final = 3600.0
_UNDER_WAY: Final = ("queued", "in_progress")
_CONTINUED: Final = ("completed", "incomplete")


class _Fields(msgspec.Struct):
    """What decides on the way of a request. The rest is the replica's affair."""

    store: Any = None
    background: Any = None
    previous_response_id: Any = None


_FIELDS: Final = msgspec.json.Decoder(_Fields)


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request for a response."""

    id: str
    target: Target
    body: Body
    store: bool
    background: bool
    previous_id: str | None

    @property
    def plain(self) -> bool:
        """Whether it can pass as it is."""
        named = self.previous_id is not None or self.background
        return not (self.store or named or self.body.view().find(b'"item_reference"') >= 0)


class Responses:
    """`startup` before the first request, `shutdown` after the last."""

    def __init__(
        self,
        *,
        store: ResponseStore,
        catalog: CatalogPort,
        proxy: Proxy,
        serve: Serve,
        clock: Clock,
        max_body_bytes: int,
        beat_s: float,
        days: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._proxy = proxy
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._beat_s = beat_s
        self._days = days
        self._background = Background(serve=serve, clock=clock)
        self._pruning: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        return [
            Route("POST", PATH, self._create),
            Route("GET", f"{PATH}/{{}}", self._retrieve),
            Route("DELETE", f"{PATH}/{{}}", self._delete),
            Route("POST", f"{PATH}/{{}}/cancel", self._cancel),
            Route("GET", f"{PATH}/{{}}/input_items", self._list_input),
        ]

    async def startup(self) -> None:
        """What an earlier platform left unfinished has failed."""
        if self._pruning is not None:
            return
        for record in await asyncio.to_thread(self._store.with_status, _UNDER_WAY):
            response = failed(msgspec.json.decode(record.response), STOPPED)
            await self._settle(record.id, "failed", msgspec.json.encode(response))
        self._pruning = asyncio.create_task(self._prune(), name="prune responses")

    async def shutdown(self) -> None:
        """Let nothing go on. Idempotent."""
        await self._background.close()
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait({self._pruning})
            self._pruning = None

    async def _prune(self) -> None:
        while self._days:
            try:
                before = self._clock.now() - timedelta(days=self._days)
                await asyncio.to_thread(self._store.prune, before)
            except ConfigError as error:
                logger.warning("old responses cannot be forgotten for now: %s", error.message)
            await asyncio.sleep(PRUNE_EVERY_S)

    # Make one

    async def _create(self, exchange: Exchange, _: str) -> None:
        target, body = await read_target(
            exchange, types=frozenset({JSON_TYPE}), limit_bytes=self._max_body_bytes
        )
        try:
            exchange.watch()
            spec = self._catalog.spec(target.model)
            exchange.model = spec.name
            check_ability(spec, Ability.CHAT)
            ask = _read(target, body)
            if ask.plain:
                blank = partial(_blank_of, ask, self._clock.now())
                text = body.in_memory  # what is on disk is not read for this
                prefix = partial(response_prefixes, text) if text else None
                recorder = Recorder(ask.id, blank=blank, keep=None)
                await self._forward(exchange, ask, body, recorder, prefix=prefix)
            else:
                await self._create_kept(exchange, ask)
        finally:
            body.close()

    async def _create_kept(self, exchange: Exchange, ask: _Ask) -> None:
        """One that needs what is kept, or is kept itself."""
        value = _decoded(ask.body)
        own = await self._own_items(value.get("input"))
        context = [] if ask.previous_id is None else await self._context(ask.previous_id)
        kept = kept_items(own, ask.id)
        record = StoredResponse(
            id=ask.id,
            created_at=self._clock.now(),
            status="queued",
            background=ask.background,
            previous_id=ask.previous_id,
            input=_text(kept),
            response="",
        )
        body = _sent(ask, value, [*context, *own])
        seed = _text([value.get("instructions"), value.get("tools")]).encode()
        prefix = partial(item_prefixes, [msgspec.json.encode(item) for item in [*context, *kept]], seed)
        if ask.background:
            await self._create_in_background(exchange, ask, value, record, body, prefix)
            return
        blank = partial(_blank_of, ask, record.created_at)
        recorder = Recorder(ask.id, blank=blank, keep=self._keeper(record) if ask.store else None)
        await self._forward(exchange, ask, body, recorder, prefix=prefix)

    async def _create_in_background(
        self,
        exchange: Exchange,
        ask: _Ask,
        value: dict[str, Any],
        record: StoredResponse,
        body: Body,
        prefix: Prefix,
    ) -> None:
        self._background.check_room()
        response = _blank(ask, value, record.created_at, status="queued")
        await asyncio.to_thread(self._store.put, replace(record, response=_text(response)))
        keep = partial(self._settle, ask.id)
        run = Run(response, keep)
        recorder = Recorder(ask.id, blank=lambda: run.response, keep=keep, told=OPENING_EVENTS)
        model = exchange.model

        async def work(inner: Exchange) -> None:
            inner.model = model
            streamed = replace(ask, target=Target(ask.target.model, True))
            await self._forward(inner, streamed, body, recorder, prefix=prefix)

        self._background.start(run, recorder, work, request_id=exchange.id_header[1])
        if ask.target.stream:
            await self._follow(exchange, run, after=-1)
        else:
            await exchange.answer(json_answer(response))

    async def _forward(
        self,
        exchange: Exchange,
        ask: _Ask,
        body: Body,
        recorder: Recorder,
        *,
        prefix: Prefix | None = None,
    ) -> None:
        exchange.manner = Manner(recorder)
        job = Job(
            path=PATH,
            target=ask.target,
            body=body,
            ends_with_done=False,
            heartbeats=True,
            prefix=prefix,
            listener=recorder,
        )
        await self._proxy.forward(exchange, job)

    def _keeper(self, record: StoredResponse) -> Keep:
        async def keep(status: str, response: bytes) -> None:
            done = replace(record, status=status, response=response.decode())
            await asyncio.to_thread(self._store.put, done)

        return keep

    async def _settle(self, response_id: str, status: str, response: bytes) -> None:
        await asyncio.to_thread(self._store.settle, response_id, status=status, response=response.decode())

    async def _own_items(self, given: Any) -> list[Any]:
        """What came with the request, with the items that it only names."""
        own = []
        for index, item in enumerate(as_items(given)):
            own.append(await self._found(item["id"], index) if is_reference(item) else item)
        return own

    async def _context(self, previous_id: str) -> list[dict[str, Any]]:
        """What the model has seen and said up to a response, that included."""
        chain = await self._chain(previous_id)
        if chain[-1].status not in _CONTINUED:
            raise InvalidRequest(
                f"the response {previous_id!r} is {chain[-1].status}: nothing can go on from it",
                param="previous_response_id",
            )
        return _items_of(*chain)

    async def _found(self, item_id: str, index: int) -> Any:
        """The item that a reference means."""
        response_id = response_of_item(item_id)
        record = None if response_id is None else await asyncio.to_thread(self._store.get, response_id)
        for item in [] if record is None else _items_of(record):
            if item.get("id") == item_id:
                return item
        raise NotFound(f"there is no item {item_id[:100]!r}", param=f"input.{index}.id")

    async def _chain(self, previous_id: str) -> list[StoredResponse]:
        chain = await asyncio.to_thread(self._store.chain, previous_id)
        if not chain or chain[0].previous_id is not None:
            missing = chain[0].previous_id if chain else previous_id
            raise InvalidRequest(
                f"there is no response {str(missing)[:100]!r} to go on from: it was deleted, or never kept",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return chain

    # Come back to one

    async def _retrieve(self, exchange: Exchange, response_id: str) -> None:
        run = self._background.get(response_id)
        if exchange.query("stream") in ("true", "1"):
            record = await self._record(response_id)
            if run is None:
                what = "are not kept any more" if record.background else "were not kept"
                raise InvalidRequest(
                    f"the events of this response {what}: ask for it without 'stream'", param="stream"
                )
            await self._follow(exchange, run, after=_number(exchange.query("starting_after")))
        elif run is not None and not run.done:
            await exchange.answer(json_answer(run.response))
        else:
            await exchange.answer(Answer((await self._record(response_id)).response.encode()))

    async def _delete(self, exchange: Exchange, response_id: str) -> None:
        await self._background.forget(response_id)
        if not await asyncio.to_thread(self._store.delete, response_id):
            raise _unknown(response_id)
        await exchange.answer(json_answer({"id": response_id, "object": "response", "deleted": True}))

    async def _cancel(self, exchange: Exchange, response_id: str) -> None:
        record = await self._record(response_id)
        if not record.background:
            raise InvalidRequest(
                "only responses in the background can be cancelled: others end when their client leaves"
            )
        if (run := self._background.get(response_id)) is not None:
            await self._background.cancel(run)
            await exchange.answer(json_answer(run.response))
        else:
            await exchange.answer(Answer(record.response.encode()))

    async def _list_input(self, exchange: Exchange, response_id: str) -> None:
        record = await self._record(response_id)
        items = msgspec.json.decode(record.input)
        if record.previous_id is not None:
            items = [*_items_of(*await self._chain(record.previous_id)), *items]
        items = [{"status": "completed", **item} for item in items]
        order, limit, after = (exchange.query(name) for name in ("order", "limit", "after"))
        await exchange.answer(json_answer(page_of(items, order=order, limit=limit, after=after)))

    async def _follow(self, exchange: Exchange, run: Run, *, after: int) -> None:
        exchange.watch()
        await exchange.start_events()
        async for data in run.follow(after, beat_s=self._beat_s):
            await exchange.write(data)
        await exchange.write(b"", more=False)

    async def _record(self, response_id: str) -> StoredResponse:
        record = await asyncio.to_thread(self._store.get, response_id)
        if record is None:
            raise _unknown(response_id)
        return record


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"there is no response {response_id[:100]!r}: it was deleted, or never kept")


def _read(target: Target, body: Body) -> _Ask:
    fields = _FIELDS.decode(body.view())
    for name in ("store", "background"):
        if not isinstance(getattr(fields, name), bool | None):
            raise InvalidRequest(f"{name!r} must be a boolean", param=name)
    previous_id = fields.previous_response_id
    if not isinstance(previous_id, str | None):
        raise InvalidRequest("'previous_response_id' must be a string", param="previous_response_id")
    if fields.background and fields.store is False:
        raise InvalidRequest("'background' needs 'store' to be true", param="background")
    return _Ask(
        id=new_response_id(),
        target=target,
        body=body,
        store=fields.store is not False,
        background=fields.background is True,
        previous_id=previous_id,
    )


def _decoded(body: Body) -> dict[str, Any]:
    try:
        value: dict[str, Any] = msgspec.json.decode(body.view())
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from None
    return value


def _blank(ask: _Ask, value: dict[str, Any], now: datetime, *, status: str) -> dict[str, Any]:
    return blank_response(
        value,
        response_id=ask.id,
        model=ask.target.model,
        created_at=now.timestamp(),
        status=status,
    )


def _blank_of(ask: _Ask, now: datetime) -> dict[str, Any]:
    """For a stream that fails: as much of the response as its request tells."""
    try:
        return _blank(ask, _decoded(ask.body), now, status="in_progress")
    except InvalidRequest:
        return _blank(ask, {}, now, status="in_progress")


def _sent(ask: _Ask, value: dict[str, Any], items: list[Any]) -> Body:
    """What the replica gets: as it came, unless items of others belong to it."""
    given = value.get("input")
    told = ask.previous_id is not None or any(map(is_reference, as_items(given)))
    if told and isinstance(given, str | list | None):
        value = value | {"input": items}
    elif not ask.background:
        return ask.body
    return Body(msgspec.json.encode(value | ({"stream": True} if ask.background else {})))


def _items_of(*chain: StoredResponse) -> list[dict[str, Any]]:
    """Input and output of each."""
    items: list[dict[str, Any]] = []
    for record in chain:
        items += [*msgspec.json.decode(record.input), *msgspec.json.decode(record.response)["output"]]
    return items


def _number(given: str | None) -> int:
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidRequest("'starting_after' must be the number of an event", param="starting_after")
    return int(given)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
