"""`/v1/responses` with a memory: what is kept, gone on from, run in the background, listed and deleted.

Models answer without one, so a request that goes on from an earlier response is sent to them with all of its
items. A request that wants nothing of this passes through as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from ekiben.clock import Clock
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest
from ekiben.fleet.types import Prefix
from ekiben.gateway.http.answers import Answer, Manner, json_answer
from ekiben.gateway.http.body import Body
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.inference import check_ability
from ekiben.gateway.ports import CatalogPort
from ekiben.gateway.relay.errand import Serve
from ekiben.gateway.relay.prefixes import item_prefixes, response_prefixes
from ekiben.gateway.relay.proxy import Job, Proxy
from ekiben.gateway.relay.target import JSON_TYPE, Target, read_target
from ekiben.gateway.responses.archive import Archive
from ekiben.gateway.responses.background import STOPPED, Background, Run
from ekiben.gateway.responses.echo import check_echo
from ekiben.gateway.responses.items import as_items, is_reference, kept_items, page_of
from ekiben.gateway.responses.recorder import Recorder
from ekiben.gateway.routes import Route
from ekiben.responses import (
    OPENING_EVENTS,
    blank_response,
    new_response_id,
)
from ekiben.store.responses import ResponseStore, StoredResponse

PATH: Final = "/v1/responses"
COUNT_PATH: Final = f"{PATH}/input_tokens"


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
    model: str
    """The name that the answer goes under."""
    body: Body
    store: bool
    background: bool
    previous_id: str | None
    context: int = 0
    """How many items of earlier turns stand before its own."""

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
        self._archive = Archive(store, clock, days=days)
        self._catalog = catalog
        self._proxy = proxy
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._beat_s = beat_s
        self._background = Background(serve=serve, clock=clock)
        self._pruning: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        return [
            Route("POST", PATH, self._create),
            Route("POST", COUNT_PATH, self._count),
            Route("GET", f"{PATH}/{{}}", self._retrieve),
            Route("DELETE", f"{PATH}/{{}}", self._delete),
            Route("POST", f"{PATH}/{{}}/cancel", self._cancel),
            Route("GET", f"{PATH}/{{}}/input_items", self._list_input),
        ]

    async def startup(self) -> None:
        """What an earlier platform left unfinished has failed."""
        if self._pruning is not None:
            return
        await self._archive.recover(STOPPED)
        self._pruning = asyncio.create_task(self._archive.prune(), name="prune responses")

    async def shutdown(self) -> None:
        """Let nothing go on. Idempotent."""
        await self._background.close()
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait({self._pruning})
            self._pruning = None

    # Make one

    async def _create(self, exchange: Exchange, _: str) -> None:
        async with self._asked(exchange) as ask:
            if ask.plain:
                text = ask.body.in_memory  # what is on disk is not read for this
                prefix = partial(response_prefixes, text) if text else None
                recorder = Recorder(ask.id, blank=partial(_blank_of, ask, self._clock.now()), keep=None)
                await self._forward(exchange, ask, ask.body, recorder, prefix=prefix)
            else:
                await self._create_kept(exchange, ask)

    async def _count(self, exchange: Exchange, _: str) -> None:
        async with self._asked(exchange) as ask:
            value = _decoded(ask.body)
            context, own = await self._items(ask, value)
            recorder = Recorder(ask.id, blank=dict, keep=None, context=len(context))
            body = _sent(ask, value, [*context, *own])
            await self._forward(exchange, ask, body, recorder, path=COUNT_PATH)

    @asynccontextmanager
    async def _asked(self, exchange: Exchange) -> AsyncIterator[_Ask]:
        """The request, as long as it is dealt with."""
        target, body = await read_target(
            exchange, types=frozenset({JSON_TYPE}), limit_bytes=self._max_body_bytes
        )
        try:
            exchange.watch()
            spec = self._catalog.spec(target.model)
            exchange.model = spec.name
            check_ability(spec, Ability.CHAT)
            name = target.model if spec.adapter_of(target.model) else spec.name
            yield _read(target, name, body)
        finally:
            body.close()

    async def _items(self, ask: _Ask, value: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """What the model has seen and said before, and what is new."""
        own = await self._archive.own_items(value.get("input"))
        return [] if ask.previous_id is None else await self._archive.context(ask.previous_id), own

    async def _create_kept(self, exchange: Exchange, ask: _Ask) -> None:
        """One that needs what is kept, or is kept itself."""
        value = _decoded(ask.body)
        context, own = await self._items(ask, value)
        ask = replace(ask, context=len(context))
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
        keep = self._archive.keeper(record) if ask.store else None
        recorder = Recorder(ask.id, blank=blank, keep=keep, context=ask.context)
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
        check_echo(value)
        self._background.check_room()
        response = _blank(ask, value, record.created_at, status="queued")
        await self._archive.put(replace(record, response=_text(response)))
        keep = partial(self._archive.settle, ask.id)
        run = Run(response, keep)
        recorder = Recorder(
            ask.id, blank=lambda: run.response, keep=keep, told=OPENING_EVENTS, context=ask.context
        )
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
        path: str = PATH,
    ) -> None:
        exchange.manner = Manner(recorder, enveloped=True)
        job = Job(
            path=path,
            target=ask.target,
            body=body,
            ends_with_done=False,
            heartbeats=True,
            prefix=prefix,
            listener=recorder,
        )
        await self._proxy.forward(exchange, job)

    # Come back to one

    async def _retrieve(self, exchange: Exchange, response_id: str) -> None:
        run = self._background.get(response_id)
        if exchange.query("stream") in ("true", "1"):
            record = await self._archive.record(response_id)
            if run is None:
                what = "are not kept any more" if record.background else "were not kept"
                raise InvalidRequest(
                    f"the events of this response {what}: ask for it without 'stream'", param="stream"
                )
            await self._follow(exchange, run, after=_number(exchange.query("starting_after")))
        elif run is not None and not run.done:
            await exchange.answer(json_answer(run.response))
        else:
            await exchange.answer(Answer((await self._archive.record(response_id)).response.encode()))

    async def _delete(self, exchange: Exchange, response_id: str) -> None:
        await self._background.forget(response_id)
        await self._archive.delete(response_id)
        await exchange.answer(json_answer({"id": response_id, "object": "response", "deleted": True}))

    async def _cancel(self, exchange: Exchange, response_id: str) -> None:
        record = await self._archive.record(response_id)
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
        items = await self._archive.input_items(response_id)
        order, limit, after = (exchange.query(name) for name in ("order", "limit", "after"))
        await exchange.answer(json_answer(page_of(items, order=order, limit=limit, after=after)))

    async def _follow(self, exchange: Exchange, run: Run, *, after: int) -> None:
        exchange.watch()
        await exchange.start_events()
        async for data in run.follow(after, beat_s=self._beat_s):
            await exchange.write(data)
        await exchange.write(b"", more=False)


def _read(target: Target, name: str, body: Body) -> _Ask:
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
        model=name,
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
        model=ask.model,
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


def _number(given: str | None) -> int:
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidRequest("'starting_after' must be the number of an event", param="starting_after")
    return int(given)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
