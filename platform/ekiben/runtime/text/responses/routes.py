"""`POST /v1/responses`: checked and translated here, answered by the engine's chat. And how long one is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.abilities import Chat, TextRequest
from ekiben.contract.model import Ability
from ekiben.errors import EkibenError, EngineError, InvalidRequest, UnsupportedParameter
from ekiben.responses import CONTEXT_HEADER, ID_HEADER, RESPONSE_ID, blank_response, new_response_id
from ekiben.runtime.answering import told
from ekiben.runtime.http import Answer, Request, Route, Stream, check_model_name
from ekiben.runtime.text import wire
from ekiben.runtime.text.responses.answer import AnswerWriter
from ekiben.runtime.text.responses.count import count_input_tokens
from ekiben.runtime.text.responses.request import Translation, counted_from_own, translate
from ekiben.runtime.text.responses.shorter import drop_oldest
from ekiben.runtime.text.wire import Surface

TOO_LONG: Final = "context_length_exceeded"


async def create_response(request: Request) -> Answer | Stream:
    """A response, or its events."""
    try:
        return await _create(request)
    except InvalidRequest as error:
        raise counted_from_own(error, _context(request)) from None


async def _create(request: Request) -> Answer | Stream:
    body = request.json()
    name = check_model_name(request, body.get("model"), adapters=True)
    await wire.ready()
    wire.validate(Surface.RESPONSES, body)
    response_id = request.header(ID_HEADER)
    kept = RESPONSE_ID.fullmatch(response_id) is not None
    if not kept:
        _check_alone(body)
    translation = translate(body)
    response = blank_response(
        body,
        response_id=response_id if kept else new_response_id(),
        model=name,
        created_at=SYSTEM_CLOCK.now().timestamp(),
        status="in_progress",
    )
    writer = AnswerWriter(response, translation)
    run = _Run(request, translation, name, shorten=body.get("truncation") == "auto")
    if body.get("stream"):
        return Stream(_events(run, writer, context=_context(request)))
    async with aclosing(run.objects()) as objects:
        async for whole in objects:
            return Answer(json.dumps(writer.whole(json.loads(whole))).encode())
    raise _no_answer()


def _check_alone(body: Mapping[str, Any]) -> None:
    """Refuse what needs somebody who keeps responses. Not said: then they are simply not kept."""
    for name in ("previous_response_id", "background", "store"):
        if body.get(name):
            raise UnsupportedParameter(
                f"{name!r} needs a platform that keeps responses, and this is a model served alone: "
                "leave it out, or run `ekiben up`",
                param=name,
            )


async def count_input(request: Request) -> Answer:
    """How many tokens the input of a response has."""
    if not request.header(ID_HEADER):
        _check_alone(request.json())
    try:
        return await count_input_tokens(request)
    except InvalidRequest as error:
        raise counted_from_own(error, _context(request)) from None


def _context(request: Request) -> int:
    """How many items of earlier turns the platform has put before the client's."""
    told = request.header(CONTEXT_HEADER)
    return int(told) if told.isascii() and told.isdigit() and len(told) < 9 else 0


async def _events(run: _Run, writer: AnswerWriter, *, context: int) -> AsyncGenerator[bytes, None]:
    """Begins with the engine's first object, so that an error before it has a status of its own."""
    async with aclosing(run.objects()) as objects:
        try:
            first = await anext(objects, None)
        except InvalidRequest as error:
            raise counted_from_own(error, context) from None
        if first is None:
            raise _no_answer()
        yield writer.begin() + writer.feed(json.loads(first))
        try:
            async for chunk in objects:
                if events := writer.feed(json.loads(chunk)):
                    yield events
        except Exception as error:  # noqa: BLE001 - told to the log
            yield writer.fail(told(error))
        else:
            yield writer.finish()


def _no_answer() -> EngineError:
    return EngineError("the engine ended without an answer: try again")


class _Run:
    """The chat that answers a request."""

    def __init__(self, request: Request, translation: Translation, name: str, *, shorten: bool) -> None:
        """`name`: of the model, or of one of its adapters.

        `shorten`: drop the oldest turns of a conversation that is too long for the model.
        """
        self._request = request
        self._translation = translation
        self._name = name
        self._shorten = shorten

    async def objects(self) -> AsyncGenerator[bytes, None]:
        """What the engine answers, errors in the words of the request."""
        first: bytes | None = None
        while first is None:
            async with aclosing(self._chat()) as objects:
                try:
                    first = await anext(objects, b"")
                except InvalidRequest as error:
                    if not self._fits_when_shorter(error):
                        raise self._translation.in_own_words(error) from None
                    continue
                if first:
                    yield first
                async for item in objects:
                    yield item

    def _fits_when_shorter(self, error: EkibenError) -> bool:
        return self._shorten and error.error_code == TOO_LONG and drop_oldest(self._translation.messages)

    def _chat(self) -> AsyncGenerator[bytes, None]:
        chat = self._translation.chat
        engine: Chat = self._request.able(Ability.CHAT)
        return engine.chat(
            TextRequest(
                body=chat,
                raw=json.dumps(chat).encode(),
                stream=chat.get("stream", False),
                model=self._name,
                request_id=self._request.request_id,
                adapter=self._request.model.adapter_of(self._name),
            )
        )


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/responses", frozenset({Ability.CHAT}), create_response),
    Route("POST", "/v1/responses/input_tokens", frozenset({Ability.CHAT}), count_input),
)
