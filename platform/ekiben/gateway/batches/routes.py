"""`/v1/batches`: many requests in a file, run when nobody else wants the models, and answered in files.

Any route that models answer with JSON to JSON can be an endpoint. What has not ended is gone on with by the
next platform on the same home.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final

import msgspec

from ekiben.contract.model import Ability
from ekiben.errors import ConfigError, InvalidRequest, NotFound, QueueFull
from ekiben.gateway.batches.lines import MAX_INPUT_BYTES
from ekiben.gateway.batches.run import UNDER_WAY, BatchRun, Means
from ekiben.gateway.files.library import PREFIX
from ekiben.gateway.files.uploads import check_keep
from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.body import read_body
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.inference import InferenceRoute, check_ability
from ekiben.gateway.pages import page, read_limit
from ekiben.gateway.ports import CatalogPort
from ekiben.gateway.relay.target import JSON_TYPE, check_type
from ekiben.gateway.routes import PARAMETER, Route
from ekiben.store.batches import StoredBatch
from ekiben.store.blobs import new_id

logger = logging.getLogger(__name__)

PATH: Final = "/v1/batches"
WINDOW_S: Final = 24 * 3600
MAX_BODY_BYTES: Final = 64 * 1024
MAX_UNDER_WAY: Final = 32
"""Batches that have not ended. Each holds a few lines in memory."""
MAX_PAIRS: Final = 16
MAX_KEY: Final = 64
MAX_VALUE: Final = 512
_FIELDS: Final = frozenset(
    {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
)


class Batches:
    """`startup` before the first request, `drain` and `shutdown` at the end."""

    def __init__(self, means: Means, *, catalog: CatalogPort, entries: Iterable[InferenceRoute]) -> None:
        self._means = means
        self._catalog = catalog
        self._entries = {entry.path: entry for entry in entries if _answers_json(entry)}
        self._runs: dict[str, BatchRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def routes(self) -> list[Route]:
        return [
            Route("POST", PATH, self._create),
            Route("GET", PATH, self._list),
            Route("GET", f"{PATH}/{PARAMETER}", self._show),
            Route("POST", f"{PATH}/{PARAMETER}/cancel", self._cancel),
        ]

    # From one platform to the next

    async def startup(self) -> None:
        """Go on with what has not ended, and remove what belongs to nothing."""
        try:
            stored = await asyncio.to_thread(self._means.store.with_status, UNDER_WAY)
        except ConfigError as error:
            logger.warning("the batches of an earlier platform cannot be read: %s", error.message)
            return
        unfinished = {file_id for each in stored for file_id in (each.output_id, each.error_id)}
        await self._means.library.startup(spared=unfinished)
        for each in stored:
            self._begin(each)

    def sweep(self) -> None:
        """Time has passed."""
        for run in list(self._runs.values()):
            run.end_if_overdue()

    def drain(self) -> None:
        """Begin nothing more, and break off what is under way: the next platform makes it anew."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def shutdown(self) -> None:
        """Returns when nothing goes on. Idempotent."""
        self.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, stored: StoredBatch) -> BatchRun:
        endpoint = msgspec.json.decode(stored.batch)["endpoint"]
        run = BatchRun(stored, self._means, check_model=partial(self._check_model, endpoint))
        self._runs[stored.id] = run
        task = asyncio.create_task(self._go(run), name=f"batch {stored.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _go(self, run: BatchRun) -> None:
        try:
            await run.go()
        except Exception:
            logger.exception("%s is left until the next start", run.stored.id)
        finally:
            del self._runs[run.stored.id]

    def _check_model(self, endpoint: str, model: str) -> None:
        if (entry := self._entries.get(endpoint)) is None:
            raise InvalidRequest(f"{endpoint!r} cannot be the endpoint of a batch any more")
        check_ability(self._catalog.spec(model), entry.ability)

    # Routes

    async def _create(self, exchange: Exchange, _: str) -> None:
        fields = await self._read(exchange)
        file_id = _text(fields, "input_file_id")
        endpoint = _text(fields, "endpoint")
        if endpoint not in self._entries:
            known = ", ".join(sorted(self._entries))
            raise InvalidRequest(f"the endpoint must be one of {known}", param="endpoint")
        if _text(fields, "completion_window") != "24h":
            raise InvalidRequest("'completion_window' must be '24h'", param="completion_window")
        metadata, keep_s = _metadata(fields.get("metadata")), _keep_s(fields.get("output_expires_after"))
        await self._check_input(file_id)
        self._check_room()
        now = self._means.clock.now()
        batch = {
            "id": new_id("batch_"),
            "object": "batch",
            "endpoint": endpoint,
            "input_file_id": file_id,
            "completion_window": "24h",
            "status": "validating",
            "created_at": int(now.timestamp()),
            "expires_at": int((now + timedelta(seconds=WINDOW_S)).timestamp()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": metadata,
        }
        stored = StoredBatch(
            id=str(batch["id"]),
            created_at=now,
            status="validating",
            input_id=file_id,
            output_id=new_id(PREFIX),
            error_id=new_id(PREFIX),
            keep_s=keep_s,
            batch=msgspec.json.encode(batch).decode(),
        )
        await asyncio.to_thread(self._means.store.add, stored)
        if not self._stopped:
            self._begin(stored)
        await exchange.answer(json_answer(batch))

    async def _list(self, exchange: Exchange, _: str) -> None:
        limit = read_limit(exchange.query("limit"))
        after = exchange.query("after")
        last = None if after is None else await self._stored(after, param="after")
        found = await asyncio.to_thread(self._means.store.page, limit=limit + 1, after=last)
        told = [self._told(stored) for stored in found[:limit]]
        await exchange.answer(json_answer(page(told, has_more=len(found) > limit)))

    async def _show(self, exchange: Exchange, batch_id: str) -> None:
        await exchange.answer(json_answer(self._told(await self._stored(batch_id))))

    async def _cancel(self, exchange: Exchange, batch_id: str) -> None:
        if (run := self._runs.get(batch_id)) is not None:
            run.end("cancelled")
            await run.noted.wait()
            told = run.batch
        else:
            told = self._told(await self._stored(batch_id))
        if told["status"] not in ("cancelling", "cancelled"):
            raise InvalidRequest(f"the batch {batch_id!r} is {told['status']}: it cannot be cancelled")
        await exchange.answer(json_answer(told))

    # What they need

    async def _read(self, exchange: Exchange) -> Mapping[str, Any]:
        check_type(exchange, frozenset({JSON_TYPE}))
        body = await read_body(exchange, limit_bytes=MAX_BODY_BYTES)
        try:
            fields = msgspec.json.decode(body.view())
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from None
        finally:
            body.close()
        if not isinstance(fields, dict):
            raise InvalidRequest("the body must be a JSON object")
        if unknown := sorted(fields.keys() - _FIELDS):
            raise InvalidRequest(f"{unknown[0][:100]!r} is not a field of this route", param=unknown[0][:100])
        return fields

    async def _check_input(self, file_id: str) -> None:
        file = await self._means.library.file(file_id, param="input_file_id")
        if file.purpose != "batch":
            message = f"the file's purpose is {file.purpose!r}: upload it with the purpose 'batch'"
            raise InvalidRequest(message, param="input_file_id")
        if file.size_bytes > MAX_INPUT_BYTES:
            message = f"the file has {file.size_bytes} bytes, a batch may have {MAX_INPUT_BYTES}"
            raise InvalidRequest(message, param="input_file_id")

    def _check_room(self) -> None:
        self._means.library.check_room(0)
        if len(self._runs) >= MAX_UNDER_WAY:
            raise QueueFull(f"{MAX_UNDER_WAY} batches are under way: try again later", retry_after_s=60)

    async def _stored(self, batch_id: str, *, param: str | None = None) -> StoredBatch:
        stored = await asyncio.to_thread(self._means.store.get, batch_id)
        if stored is None:
            raise NotFound(f"there is no batch {batch_id[:100]!r}", param=param)
        return stored

    def _told(self, stored: StoredBatch) -> dict[str, Any]:
        run = self._runs.get(stored.id)
        told: dict[str, Any] = msgspec.json.decode(stored.batch) if run is None else run.batch
        return told


def _answers_json(entry: InferenceRoute) -> bool:
    return JSON_TYPE in entry.types and entry.ability is not Ability.SPEAK


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{name!r} is missing, or no string", param=name)
    return value


def _metadata(given: object) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > MAX_PAIRS:
        raise InvalidRequest(f"'metadata' must be an object of at most {MAX_PAIRS} pairs", param="metadata")
    for key, value in given.items():
        if len(key) > MAX_KEY or not isinstance(value, str) or len(value) > MAX_VALUE:
            raise InvalidRequest(
                f"keys of 'metadata' have at most {MAX_KEY} characters, values are strings of at most "
                f"{MAX_VALUE}",
                param="metadata",
            )
    return given


def _keep_s(given: object) -> int | None:
    """None: until they are deleted."""
    name = "output_expires_after"
    if given is None:
        return None
    if not isinstance(given, dict) or given.keys() != {"anchor", "seconds"}:
        raise InvalidRequest(f"{name!r} must have an 'anchor' and 'seconds'", param=name)
    return check_keep(given["anchor"], given["seconds"], param=name)
