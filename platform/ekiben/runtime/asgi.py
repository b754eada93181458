"""The application of a replica: `/v1/*` and its like by itself, everything else by BentoML.

BentoML's middlewares cost more than an embedding, and its timeouts and error bodies are not OpenAI's,
so the OpenAI routes lie in front of its application and not in it. Its documentation page, schema,
metrics, health checks and native API stay as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import ModelSpec
from ekiben.errors import EkibenError, LoadFailed, ModelNotFound, ModelNotReady
from ekiben.runtime.answering import error_answer, respond, send_answer
from ekiben.runtime.dialects import dialect_routes, spoken_dialects
from ekiben.runtime.host import ModelHost
from ekiben.runtime.http import (
    OPENAI_ERRORS,
    Answer,
    Message,
    Receive,
    Request,
    Route,
    Scope,
    Send,
    StreamBroken,
)
from ekiben.runtime.routing import RouteTable, method_not_allowed, needed_by, routes_of, warm

logger = logging.getLogger(__name__)

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_MODELS: Final = "/v1/models"
_METRICS: Final = "/metrics"
_ANSWERED_ASLEEP: Final = frozenset({"/healthz", "/livez", _METRICS})
"""By BentoML, about the process and not about its model."""


class ReplicaApp:
    """Raw ASGI. The model is loaded in the lifespan, before BentoML's own startup."""

    def __init__(self, bento: Application, host: ModelHost, *, fetch_urls: bool = False) -> None:
        self._bento = bento
        self._host = host
        self._fetch_urls = fetch_urls
        self._routes: RouteTable | None = None
        self._created = 0
        self._warming: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] in _ANSWERED_ASLEEP:
            if scope["path"] == _METRICS and (countable := self._host.countable) is not None:
                await self._count_at_work(countable)
            await self._bento(scope, receive, send)
        elif self._host.asleep:
            await send_answer(error_answer(ModelNotReady("the model sleeps: try again")), send)
        else:
            with self._host.use():
                serve = self._serve if self._is_ours(scope["path"]) else self._bento
                await serve(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """BentoML's lifespan, with the model's around it."""

        async def send_after_unload(message: Message) -> None:
            # The server may end the process as soon as it has this message.
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._host.unload()
            await send(message)

        try:
            await self._load()
        except EkibenError:  # of which the host has told
            await self._host.unload()
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await self._bento(scope, receive, send_after_unload)

    async def _load(self) -> None:
        model = await self._host.assign()
        self._import_routes(model)
        self._warming = asyncio.create_task(asyncio.to_thread(warm, model.abilities), name="warm")
        await self._host.load()
        self._created = int(SYSTEM_CLOCK.now().timestamp())

    def _import_routes(self, model: ModelSpec) -> None:
        """Before the load and not beside it: two threads had better not import the same libraries."""
        try:
            from ekiben.runtime.metrics import count_at_work, observed

            self._observed, self._count_at_work = observed, count_at_work
            routes = routes_of(model.abilities)
            routes += dialect_routes(spoken_dialects(), routes)
            self._routes = RouteTable(model, _fetching(routes) if self._fetch_urls else routes)
        except ImportError as error:
            failure = LoadFailed(f"the routes of {model.name!r} need a library that is missing: {error}")
            self._host.fail(failure)
            raise failure from error

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._routes is not None, "served a request before the model was loaded"
        method, path = scope["method"], scope["path"]
        with self._observed(self._label(path)) as outcome:

            async def send_noting_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    outcome.status = message["status"]
                await send(message)

            if (route := self._routes.find(method, path)) is not None:
                request = Request(scope, receive, self._host.model, self._host.fronts, work=self._host.work)
                await _answer(request, route, send_noting_status)
            else:
                await send_answer(self._plain(method, path), send_noting_status)

    def _plain(self, method: str, path: str) -> Answer:
        """What no ability serves: the list of models, and the ways to say no."""
        assert self._routes is not None
        if path == _MODELS or path.startswith(_MODELS + "/"):
            if method != "GET":
                return error_answer(method_not_allowed(method, path, allow="GET"))
            return self._models(path.removeprefix(_MODELS))
        route = self._routes.at(path)
        return error_answer(self._routes.missing(method, path), route.errors if route else OPENAI_ERRORS)

    def _is_ours(self, path: str) -> bool:
        return f"{path}/".startswith("/v1/") or self._knows(path)

    def _knows(self, path: str) -> bool:
        return needed_by(path) is not None or (self._routes is not None and self._routes.at(path) is not None)

    def _label(self, path: str) -> str:
        """For the metrics: one of few values, whatever clients ask for."""
        if self._knows(path):
            return path
        return _MODELS if path.startswith(_MODELS) else "other"

    def _models(self, name: str) -> Answer:
        model = self._host.model
        if not name:
            adapters = [f"{model.name}:{adapter}" for adapter in sorted(model.adapters)]
            return _json({"object": "list", "data": [*map(self._model_object, (model.name, *adapters))]})
        if model.answers_to(name.removeprefix("/")):
            return _json(self._model_object(name.removeprefix("/")))
        reason = f"the model {name[1:129]!r} is not served here: this is {model.name!r}"
        return error_answer(ModelNotFound(reason, param="model"))

    def _model_object(self, name: str) -> dict[str, Any]:
        """By any of its names."""
        model = self._host.model
        adapter = model.adapter_of(name) is not None
        return {
            "id": name if adapter else model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "ekiben",
            "state": "ready",
            "abilities": sorted(model.abilities),
        } | ({"parent": model.name} if adapter else {})


def _fetching(routes: list[Route]) -> list[Route]:
    from ekiben.runtime.remote import Remote
    from ekiben.runtime.remote_places import fetching

    remote = Remote()
    return [replace(route, handler=fetching(route.handler, remote)) for route in routes]


async def _answer(request: Request, route: Route, send: Send) -> None:
    try:
        await respond(request, route.handler, send, errors=route.errors)
    except StreamBroken as error:
        # Returning without the last chunk makes the server cut the connection.
        logger.error("the answer to %s broke off: %s", request.path, error.__cause__)


def _json(value: dict[str, Any]) -> Answer:
    return Answer(json.dumps(value).encode())
