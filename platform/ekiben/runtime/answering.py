"""How a replica answers: runs a handler until the client leaves, sends what it gives, or the error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from ekiben.errors import EkibenError, for_clients
from ekiben.plugins.dialects import ErrorForm
from ekiben.runtime.http import (
    OPENAI_ERRORS,
    Answer,
    ClientGone,
    Handler,
    Request,
    Send,
    Stream,
    StreamBroken,
)

logger = logging.getLogger(__name__)


async def respond(
    request: Request, handler: Handler, send: Send, *, errors: ErrorForm = OPENAI_ERRORS
) -> None:
    """Answer a request: read it, run the handler, cancel it as soon as the client leaves."""
    try:
        try:
            await request.read()
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - told to the log
            await send_answer(error_answer(told(error), errors, request_id=request.request_id), send)
            return
        await _until_disconnect(request, _answer(request, handler, send, errors))
    except ClientGone:
        return
    finally:
        request.close()


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it when the client leaves first. Raises ClientGone when it has let go."""
    working = asyncio.current_task()
    assert working is not None, "answered outside a task"
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        working.cancel()

    watch = request.watch(leave)
    try:
        await work
    except asyncio.CancelledError:
        if not left:
            raise
        working.uncancel()
        raise ClientGone from None
    finally:
        watch.close()


async def _answer(request: Request, handler: Handler, send: Send, errors: ErrorForm) -> None:
    def event(error: Exception) -> bytes:
        return errors.event(errors.body(told(error), request_id=request.request_id))

    try:
        answer = await handler(request)
        if isinstance(answer, Stream):
            await _send_stream(answer, send, tell=event)
        else:
            await send_answer(answer, send)
    except (ClientGone, StreamBroken):
        raise
    except Exception as error:  # noqa: BLE001 - told to the log
        await send_answer(error_answer(told(error), errors, request_id=request.request_id), send)


async def send_answer(answer: Answer, send: Send) -> None:
    """A whole response in two messages."""
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode("latin-1")),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _send_stream(stream: Stream, send: Send, *, tell: Callable[[Exception], bytes]) -> None:
    """The headers wait for the first chunk, so that an error before it still gets its own status.

    `tell`: an error as the last event.
    """
    async with aclosing(stream.chunks) as chunks:
        first = await anext(chunks, b"")
        await send({"type": "http.response.start", "status": 200, "headers": _stream_headers(stream)})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            if not stream.events:
                raise StreamBroken from error
            await send({"type": "http.response.body", "body": tell(error), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _stream_headers(stream: Stream) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", stream.content_type.encode("latin-1"))]
    if stream.events:
        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    return headers


def told(error: Exception) -> EkibenError:
    """What the client is told of errors of the tree; of others only that the log has them."""
    if isinstance(error, EkibenError):
        shown = for_clients(error)
        if shown.message != error.message:
            logger.error("a request failed: %s", error.message)
        return shown
    logger.error("a request failed in a way that nobody foresaw", exc_info=error)
    return EkibenError("the server failed on this request; its log says why")


def error_answer(error: EkibenError, errors: ErrorForm = OPENAI_ERRORS, *, request_id: str = "") -> Answer:
    """The error with its status and headers."""
    body = errors.body(error, request_id=request_id)
    return Answer(body, status=error.status, headers=error.headers())
