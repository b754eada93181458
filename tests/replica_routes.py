"""A replica's routes in this process, spoken to over ASGI: for tests of routes and engines together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Engine, LoadedModel, ModelSpec, testing
from ekiben.contract.model import Ability, Family, SourceSpec, Variant
from ekiben.plugins.discovery import discover, load_object
from ekiben.runtime.answering import respond
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.http import Receive, Request, Route, Scope, Send
from ekiben.runtime.work import WorkBook

Weights = Callable[[str], Path]


def embedder_spec(name: str) -> ModelSpec:
    """Of a folder that sentence-transformers embeds with."""
    variant = Variant(format="safetensors", source=SourceSpec(kind="local"), engine="sentence_transformers")
    return ModelSpec(
        name=name, family=Family.EMBEDDING, abilities=frozenset({Ability.EMBED}), variants=(variant,)
    )


def client(
    model: ModelSpec, loaded: LoadedModel, routes: Sequence[Route], *, work: WorkBook | None = None
) -> httpx.AsyncClient:
    """Requests to the routes of a loaded model. `work` hears how far they have come."""
    fronts = Fronts(loaded)
    served = {(route.method, route.path): route for route in routes}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        route = served[scope["method"], scope["path"]]
        request = Request(scope, receive, model, fronts, work=work)
        await respond(request, route.handler, send, errors=route.errors)

    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=300)


async def load(name: str, weights: Weights, scratch: Path, **options: Any) -> tuple[ModelSpec, Any]:
    """A model of the catalog in its engine, with options over the manifest's defaults."""
    plugins = discover()
    spec = resolve_model(name, plugins=plugins)
    return spec, await load_folder(spec, weights(name), scratch, **options)


async def load_folder(
    spec: ModelSpec, folder: Path, scratch: Path, *, cache: Path | None = None, **options: Any
) -> Any:
    """A model's engine over weights from elsewhere."""
    plugin = discover().engines()[spec.variants[0].engine]
    engine: Engine = load_object(plugin)  # type: ignore[assignment]
    assert plugin.manifest.engine is not None
    options = plugin.manifest.engine.defaults() | options
    request = testing.load_request(spec, folder, scratch=scratch, options=options)
    return await engine.load(replace(request, cache=cache))
