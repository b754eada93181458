"""`POST /v1/chat/completions` and `POST /v1/completions`: checked here, answered by the engine.

The engine speaks OpenAI's objects itself, so its answers are passed on as they are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from ekiben.contract.abilities import Chat, Complete, TextRequest
from ekiben.contract.model import Ability
from ekiben.errors import EngineError
from ekiben.runtime.http import Answer, Request, Route, Stream, check_model_name, sse_stream
from ekiben.runtime.text import bounds, wire
from ekiben.runtime.text.wire import Surface


async def create_chat_completion(request: Request) -> Answer | Stream:
    """A conversation's next message."""
    asked = await _parse(request, Surface.CHAT, bounds.check_chat)
    engine: Chat = request.able(Ability.CHAT)
    return await _answer(engine.chat(asked), stream=asked.stream)


async def create_completion(request: Request) -> Answer | Stream:
    """What follows on a text."""
    asked = await _parse(request, Surface.COMPLETION, bounds.check_completion)
    engine: Complete = request.able(Ability.COMPLETE)
    return await _answer(engine.complete(asked), stream=asked.stream)


async def _parse(
    request: Request, surface: Surface, check: Callable[[Mapping[str, Any]], None]
) -> TextRequest:
    body = request.json()
    name = check_model_name(request, body.get("model"), adapters=True)
    await wire.ready()
    wire.validate(surface, body)
    check(body)
    return TextRequest(
        body=body,
        raw=request.raw,
        stream=bool(body.get("stream")),
        model=name,
        request_id=request.request_id,
        adapter=request.model.adapter_of(name),
    )


async def _answer(objects: AsyncGenerator[bytes, None], *, stream: bool) -> Answer | Stream:
    if stream:
        return Stream(sse_stream(objects))
    async with aclosing(objects):
        async for whole in objects:
            return Answer(whole)
    raise EngineError("the engine ended without an answer: try again")


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", frozenset({Ability.CHAT}), create_chat_completion),
    Route("POST", "/v1/completions", frozenset({Ability.COMPLETE}), create_completion),
)
