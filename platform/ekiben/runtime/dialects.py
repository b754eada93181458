"""Routes of dialects over the routes of a replica's own: translated, answered, translated back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from ekiben.contract.dialect import DialectRoute, Events
from ekiben.plugins.dialects import Spoken, load_dialects
from ekiben.runtime.host import installed
from ekiben.runtime.http import Answer, Handler, Request, Route, Stream, sse_objects
from ekiben.runtime.routing import ABILITY_OF_PATH, TOKENIZER_PATHS


def spoken_dialects() -> list[Spoken]:
    """Those that are installed here. The platform has tried strangers out before."""
    paths = {*ABILITY_OF_PATH, *TOKENIZER_PATHS}
    return load_dialects(installed(), taken=paths, targets=paths, tried=True)


def dialect_routes(spoken: Iterable[Spoken], routes: Iterable[Route]) -> list[Route]:
    """Their routes over those `routes` that there are."""
    targets = {route.path: route for route in routes}
    return [
        Route(
            "POST",
            route.path,
            frozenset({route.ability}),
            translated(route, targets[route.target].handler),
            errors=voice.errors,
        )
        for voice in spoken
        for route in voice.routes
        if route.target in targets
    ]


def translated(route: DialectRoute, answer: Handler) -> Handler:
    """A handler that asks and answers through another one."""

    async def handle(request: Request) -> Answer | Stream:
        translation = route.translate(request.json())
        answered = await answer(request.restated(translation.body))
        if isinstance(answered, Stream):
            return Stream(_events(sse_objects(answered.chunks), translation.events()))
        return Answer(translation.whole(json.loads(answered.body)))

    return handle


async def _events(objects: AsyncGenerator[bytes, None], events: Events) -> AsyncGenerator[bytes, None]:
    """Nothing is said before the first object, since an error may still come instead of it."""
    begun = False
    async with aclosing(objects):
        async for item in objects:
            told = events.feed(json.loads(item))
            if not begun:
                begun = True
                told = events.begin() + told
            if told:
                yield told
    yield events.finish() if begun else events.begin() + events.finish()
