"""The gateway as one ASGI callable: every request comes in here, and every failure leaves as an envelope."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Final

from ekiben import __version__
from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.errors import EkibenError, ShuttingDown
from ekiben.fleet.types import FleetPort
from ekiben.gateway.api.aliases import Aliases
from ekiben.gateway.api.engine_metrics import EngineMetrics
from ekiben.gateway.api.event_feed import EventFeed
from ekiben.gateway.api.prewarms import NO_PREWARMS, Prewarms, PrewarmView
from ekiben.gateway.api.requests import Requests
from ekiben.gateway.api.routes import Api, Explain
from ekiben.gateway.batches.routes import Batches
from ekiben.gateway.batches.run import Means, Pace
from ekiben.gateway.door import Door, check_exposure
from ekiben.gateway.files.library import Library, Room
from ekiben.gateway.files.routes import Files
from ekiben.gateway.http.answers import Answer, json_answer, manner_of
from ekiben.gateway.http.asgi import Receive, Scope, Send
from ekiben.gateway.http.exchange import ClientGone, Exchange
from ekiben.gateway.http.watchdog import DEFAULT_PATIENCE, Patience, Watchdog
from ekiben.gateway.inference import INFERENCE, Inference, dialect_entries
from ekiben.gateway.models_page import ModelsPage
from ekiben.gateway.pictures import Pictures
from ekiben.gateway.ports import CatalogPort
from ekiben.gateway.relay.errand import Work
from ekiben.gateway.relay.proxy import Proxy
from ekiben.gateway.relay.upstream import Upstreams
from ekiben.gateway.responses.routes import Responses
from ekiben.gateway.routes import Route, Router
from ekiben.plugins.dialects import Spoken
from ekiben.plugins.discovery import Plugins
from ekiben.settings import LoadedSettings, Settings
from ekiben.store.batches import BatchStore
from ekiben.store.blobs import Blobs
from ekiben.store.files import FileStore
from ekiben.store.pictures import PictureStore
from ekiben.store.responses import ResponseStore
from ekiben.telemetry.metrics import CONTENT_TYPE, Metrics

__all__ = ["Gateway", "check_exposure"]

logger = logging.getLogger(__name__)

MAX_SHOWN: Final = 300
"""Characters of an error's message in the log."""
WEBSOCKET_POLICY: Final = 1008


class Gateway:
    """`startup` on the running loop before the first request, `drain` when the end is near, `shutdown`."""

    def __init__(
        self,
        *,
        fleet: FleetPort,
        catalog: CatalogPort,
        plugins: Plugins,
        settings: LoadedSettings,
        metrics: Metrics,
        responses: ResponseStore,
        files: FileStore,
        batches: BatchStore,
        pictures: PictureStore | None = None,
        prewarms: PrewarmView = NO_PREWARMS,
        explain: Explain | None = None,
        spoken: Sequence[Spoken] = (),
        clock: Clock = SYSTEM_CLOCK,
        patience: Patience = DEFAULT_PATIENCE,
        pace: Pace | None = None,
    ) -> None:
        values = settings.values
        self._metrics = metrics
        self._clock = clock
        self._door = Door(values)
        self._upstreams = Upstreams(clock)
        self._watchdog = Watchdog(patience, clock)
        self._engine_metrics = EngineMetrics(fleet=fleet, upstreams=self._upstreams)
        self._feed = EventFeed(fleet=fleet)
        self._sweeping: asyncio.Task[None] | None = None
        self._sweep_s = patience.sweep_s
        self._draining = False
        proxy = Proxy(
            fleet=fleet,
            upstreams=self._upstreams,
            meaning=catalog.meaning,
            metrics=metrics,
            clock=clock,
            settings=values,
        )
        api = Api(fleet=fleet, catalog=catalog, plugins=plugins, settings=settings, explain=explain)
        kept = None if pictures is None else Pictures(pictures, public_url=values.public_url)
        limit = values.max_body_bytes
        inference = Inference(
            catalog=catalog, proxy=proxy, max_body_bytes=limit, spoken=spoken, pictures=kept
        )
        self._responses = Responses(
            store=responses,
            catalog=catalog,
            proxy=proxy,
            serve=self._serve,
            clock=clock,
            max_body_bytes=limit,
            beat_s=values.heartbeat_s,
            days=values.responses_days,
        )
        self._library = _library(files, values, clock)
        means = self._means(batches, pace or Pace(concurrency=values.batch_concurrency))
        entries = [*INFERENCE, *dialect_entries(spoken)]
        self._batches = Batches(means, catalog=catalog, entries=entries)
        self._pruning: asyncio.Task[None] | None = None
        self._manners = {route.path: manner_of(voice) for voice in spoken for route in voice.routes}
        self.router = Router(
            [
                *inference.routes(),
                *([] if kept is None else kept.routes()),
                *self._responses.routes(),
                *Files(self._library).routes(),
                *self._batches.routes(),
                *ModelsPage(fleet=fleet, catalog=catalog).routes(),
                *api.routes(),
                *Prewarms(prewarms).routes(),
                *Aliases(catalog).routes(),
                *Requests(self._watchdog.exchanges).routes(),
                *self._feed.routes(),
                *self._own_routes(),
            ]
        )

    def _means(self, store: BatchStore, pace: Pace) -> Means:
        return Means(
            store=store,
            library=self._library,
            serve=self._serve,
            dispatch=self._run_errand,
            clock=self._clock,
            pace=pace,
        )

    async def startup(self) -> None:
        """Idempotent."""
        if self._sweeping is None:
            await self._responses.startup()
            await self._batches.startup()
            self._pruning = asyncio.create_task(self._library.prune(), name="prune files")
            self._sweeping = asyncio.create_task(self._sweep(), name="gateway sweep")

    def drain(self) -> None:
        """Not ready from now on: new work is told to come back, event readers are let go."""
        self._draining = True
        self._feed.stop()
        self._batches.drain()

    async def shutdown(self) -> None:
        """Close what is left. Idempotent."""
        self.drain()
        await self._responses.shutdown()
        await self._batches.shutdown()
        for task in (self._sweeping, self._pruning):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._sweeping = self._pruning = None
        self._upstreams.close()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._watchdog.exchanges)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Exchange(scope, receive, send, clock=self._clock), self._dispatch)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "lifespan.shutdown":
            if message["type"] == "lifespan.startup":
                await self.startup()
                await send({"type": "lifespan.startup.complete"})
        await self.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            self._watchdog.sweep()
            self._upstreams.sweep()
            self._batches.sweep()

    # One request

    async def _serve(self, exchange: Exchange, work: Work) -> None:
        self._metrics.began()
        self._watchdog.exchanges.add(exchange)
        try:
            await self._answer(exchange, work)
        finally:
            self._watchdog.exchanges.discard(exchange)
            exchange.close()
            self._book(exchange)

    async def _answer(self, exchange: Exchange, work: Work) -> None:
        """Nothing but a cancellation that comes from outside leaves here."""
        try:
            await work(exchange)
        except ClientGone:
            return
        except EkibenError as error:
            await self._fail(exchange, error)
        except asyncio.CancelledError:
            if not exchange.interrupted:
                raise
            self._uncancel()
            if exchange.ended_by is not None and not exchange.gone:
                await self._fail(exchange, exchange.ended_by)
        except Exception:
            logger.exception("request failed request_id=%s route=%s", exchange.id, exchange.route)
            message = f"the platform failed on this request: its log has the details under {exchange.id}"
            await self._fail(exchange, EkibenError(message))

    async def _dispatch(self, exchange: Exchange) -> None:
        self._speak(exchange)
        if not self.router.is_open(exchange.method, exchange.raw_path):
            self._door.admit(exchange)
        await self._take(exchange)

    async def _run_errand(self, exchange: Exchange) -> None:
        """What comes from the gateway itself has passed the door before."""
        self._speak(exchange)
        await self._take(exchange)

    def _speak(self, exchange: Exchange) -> None:
        if (manner := self._manners.get(exchange.raw_path)) is not None:
            exchange.manner = manner

    async def _take(self, exchange: Exchange) -> None:
        route, parameter = self.router.match(exchange.method, exchange.raw_path)
        exchange.route = route.path
        if self._draining and not route.open and exchange.method != "GET":
            raise ShuttingDown("the platform is shutting down: try again in a moment", retry_after_s=5)
        await route.handler(exchange, parameter)

    async def _fail(self, exchange: Exchange, error: EkibenError) -> None:
        try:
            await exchange.fail(error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not exchange.interrupted:
                raise
            self._uncancel()

    def _uncancel(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    def _book(self, exchange: Exchange) -> None:
        now = self._clock.monotonic()
        outcome = exchange.outcome
        first = exchange.first_byte_at
        self._metrics.ended(
            exchange.route,
            model=exchange.model,
            status=outcome,
            duration_s=now - exchange.started_at,
            first_byte_s=None if first is None else first - exchange.started_at,
        )
        if outcome >= 400:
            self._log(exchange, outcome, duration_ms=(now - exchange.started_at) * 1000)

    def _log(self, exchange: Exchange, outcome: int, *, duration_ms: float) -> None:
        error = exchange.error
        level = logging.WARNING if outcome >= 500 else logging.INFO
        if exchange.gone:
            said, code = "the client left", ""
        elif error is not None:
            said, code = error.message[:MAX_SHOWN], error.error_code or error.type
        else:
            said, code = "answered by the model", ""
        logger.log(
            level,
            "request failed request_id=%s method=%s route=%s model=%s status=%d code=%s ms=%.1f error=%s",
            exchange.id,
            exchange.method if exchange.method.isalpha() else "?",
            exchange.route,
            exchange.model or "-",
            outcome,
            code or "-",
            duration_ms,
            json.dumps(said),
        )

    # Small routes

    def _own_routes(self) -> list[Route]:
        return [
            Route("GET", "/metrics", self._show_metrics),
            Route("GET", "/livez", self._livez, open=True),
            Route("GET", "/readyz", self._readyz, open=True),
            Route("GET", "/", self._welcome),
        ]

    async def _livez(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(json_answer({"status": "alive"}))

    async def _readyz(self, exchange: Exchange, _: str) -> None:
        if self._draining or self._sweeping is None:
            raise ShuttingDown("the platform is not ready", retry_after_s=5)
        await exchange.answer(json_answer({"status": "ready"}))

    async def _show_metrics(self, exchange: Exchange, _: str) -> None:
        text = await self._engine_metrics.read(self._metrics.render())
        await exchange.answer(Answer(text, content_type=CONTENT_TYPE))

    async def _welcome(self, exchange: Exchange, _: str) -> None:
        routes = sorted({f"{route.method} {route.path}" for route in self.router.routes})
        value = {"name": "ekiben", "version": __version__, "openai": "/v1", "api": "/api", "routes": routes}
        await exchange.answer(json_answer(value))


def _library(files: FileStore, settings: Settings, clock: Clock) -> Library:
    room = Room(file_bytes=settings.max_file_bytes, all_bytes=settings.max_files_bytes)
    return Library(files, Blobs(settings.home / "files"), room=room, clock=clock)
