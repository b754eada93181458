"""Listens to every answer that the HTTP clients of the tests read, and keeps what is wrong with it.

It sits in the transports of httpx (the official SDKs' too) and in `http.client` (urllib's too). What tests
write on bare sockets is broken on purpose, and passes by it.
"""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import httpx2

from tests.conformance.answers import Exchange, problems_of_answer

_heard: Final[Counter[str]] = Counter()
_unjudged: Final[list[Exchange]] = []
_gateways: Final[set[str]] = set()
_scripted: Final[set[str]] = set()


def install() -> None:
    """Once for a run."""
    for library in (httpx, httpx2):
        for transport in (library.HTTPTransport, library.AsyncHTTPTransport, library.ASGITransport):
            _listen(transport, library)
    _listen_to_http_client()


def expect_gateway(url: str) -> None:
    """What answers here is a platform."""
    _gateways.add(_authority(url))


def leave_out(url: str) -> None:
    """What answers here passes on what a test has written."""
    _scripted.add(_authority(url))


@contextmanager
def aside() -> Iterator[list[str]]:
    """What is wrong meanwhile is the test's own affair, and given to it."""
    before = len(_unjudged)
    mine: list[str] = []
    try:
        yield mine
    finally:
        mine += [problem for exchange in _unjudged[before:] for problem in _judged(exchange)]
        del _unjudged[before:]


def take_problems() -> list[str]:
    """Of the answers since the last call: judged when the test is over, so that it is not held up."""
    taken = [problem for exchange in _unjudged for problem in _judged(exchange)]
    _unjudged.clear()
    return taken


def heard() -> dict[str, int]:
    """How many answers, by path."""
    return dict(_heard)


def hear(exchange: Exchange) -> None:
    """Note one answer, to be judged later."""
    if exchange.is_of_surface:
        _heard[f"{exchange.method} {exchange.path[:60]}"] += 1
        _unjudged.append(exchange)


def _judged(exchange: Exchange) -> list[str]:
    return [
        f"{exchange.method} {exchange.path} {exchange.status}: {problem}\n  {exchange.body[:500]!r}"
        for problem in problems_of_answer(exchange)
    ]


def _authority(url: str) -> str:
    return httpx.URL(url).netloc.decode()


def _listen(transport: Any, library: Any) -> None:
    if hasattr(transport, "handle_request"):
        handle = transport.handle_request

        def handle_request(self: Any, request: Any) -> Any:
            response = handle(self, request)
            if isinstance(response.stream, library.SyncByteStream):
                response.stream = _recorded(library)(response.stream, _finisher(request, response))
            return response

        transport.handle_request = handle_request
    else:
        handle_async = transport.handle_async_request

        async def handle_async_request(self: Any, request: Any) -> Any:
            response = await handle_async(self, request)
            response.stream = _recorded_async(library)(response.stream, _finisher(request, response))
            return response

        transport.handle_async_request = handle_async_request


Finish = Callable[[bytes, bool], None]


def _finisher(request: Any, response: Any) -> Finish:
    def finish(body: bytes, whole: bool) -> None:
        authority = request.url.netloc.decode()
        if authority in _scripted:
            return
        hear(
            Exchange(
                method=request.method,
                path=request.url.path,
                asked=getattr(request, "_content", b""),
                status=response.status_code,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=body,
                whole=whole,
                gateway=authority in _gateways,
            )
        )

    return finish


class _Recording:
    """A body on its way; told of once, when it ends or is closed."""

    def __init__(self, stream: Any, finish: Finish) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._finish: Finish | None = finish

    def _end(self, *, whole: bool) -> None:
        if (finish := self._finish) is not None:
            self._finish = None
            finish(b"".join(self._parts), whole)


def _recorded(library: Any) -> Any:
    class Recorded(_Recording, library.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for part in self._stream:
                self._parts.append(part)
                yield part
            self._end(whole=True)

        def close(self) -> None:
            self._stream.close()
            self._end(whole=False)

    return Recorded


def _recorded_async(library: Any) -> Any:
    class Recorded(_Recording, library.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._stream:
                self._parts.append(part)
                yield part
            self._end(whole=True)

        async def aclose(self) -> None:
            await self._stream.aclose()
            self._end(whole=False)

    return Recorded


def _listen_to_http_client() -> None:
    connection: Any = http.client.HTTPConnection
    response: Any = http.client.HTTPResponse
    request, getresponse = connection.request, connection.getresponse
    read, readline = response.read, response.readline

    def request_noted(self: Any, method: str, url: str, body: Any = None, *rest: Any, **more: Any) -> None:
        self._asked = (method, url, body if isinstance(body, bytes) else b"")
        request(self, method, url, body, *rest, **more)

    def getresponse_noted(self: Any) -> Any:
        answer = getresponse(self)
        answer._asked = (*getattr(self, "_asked", ("", "", b"")), f"{self.host}:{self.port}")
        return answer

    def read_noted(self: Any, amount: int | None = None) -> Any:
        body = read(self, amount)
        asked = getattr(self, "_asked", None)
        if amount is None and asked is not None:
            self._asked = None
            _hear_http_client(self, asked, getattr(self, "_begun", b"") + body)
        return body

    def readline_noted(self: Any, limit: int = -1) -> Any:
        line = readline(self, limit)
        self._begun = getattr(self, "_begun", b"") + line
        return line

    connection.request, connection.getresponse = request_noted, getresponse_noted
    response.read, response.readline = read_noted, readline_noted


def _hear_http_client(response: Any, asked: tuple[str, str, bytes, str], body: bytes) -> None:
    method, url, sent, authority = asked
    if authority not in _scripted:
        hear(
            Exchange(
                method=method,
                path=url.partition("?")[0],
                asked=sent,
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=body,
                gateway=authority in _gateways,
            )
        )
