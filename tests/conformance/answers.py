"""Whether one answer keeps the rules of its route: status, headers, body or events."""

from __future__ import annotations

import array
import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.conformance.envelopes import envelope_problems
from tests.conformance.shapes import problems_of
from tests.conformance.streams import stream_problems
from tests.conformance.surface import Row, row_of

STREAM_TYPE: Final = "text/event-stream; charset=utf-8"
_WITH_RETRY: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and as much of its answer as the client read."""

    method: str
    path: str
    asked: bytes
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    whole: bool = True
    """The client read it to its end."""
    gateway: bool = False
    """A platform answered, and not a replica."""
    request: dict[str, Any] = field(init=False)

    @property
    def is_of_surface(self) -> bool:
        """It asked for something that the rows speak of."""
        return self.path.startswith(("/v1/", "/v2/")) or row_of(self.method, self.path) is not None

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", _object(self.asked))


def problems_of_answer(exchange: Exchange) -> list[str]:
    """What is wrong with it; empty when nothing is, or when it is no answer of this surface."""
    if not exchange.is_of_surface:
        return []
    return [*_header_problems(exchange), *_body_problems(exchange)]


def _header_problems(exchange: Exchange) -> Iterator[str]:
    if exchange.gateway and not exchange.headers.get("x-request-id"):
        yield "no x-request-id"
    retry = exchange.headers.get("retry-after")
    hopeless = exchange.headers.get("x-should-retry") == "false"  # waiting would not help
    told = retry is not None and retry.isdigit() and int(retry) >= 1
    if exchange.status in _WITH_RETRY and not told and not hopeless:
        yield f"{exchange.status} with retry-after {retry!r}"
    if exchange.status == 405 and not exchange.headers.get("allow"):
        yield "405 without allow"


def _body_problems(exchange: Exchange) -> list[str]:
    row = row_of(exchange.method, exchange.path)
    content_type = exchange.headers.get("content-type", "")
    if exchange.status >= 400:
        if content_type != "application/json":
            return [f"an error of type {content_type!r}"]
        spoken = row or row_of("POST", exchange.path)  # whatever the method, a path speaks one dialect
        dialect = spoken.dialect if spoken else "openai"
        return envelope_problems(json.loads(exchange.body), dialect) if exchange.whole else []
    if exchange.status != 200:
        return [f"status {exchange.status}"]
    if row is None:
        return [f"{exchange.method} {exchange.path} has no row in tests/conformance/surface.py"]
    if content_type.startswith("text/event-stream"):
        return [*_stream_header_problems(exchange), *_stream(row, exchange)]
    return _whole(row, exchange, content_type) if exchange.whole else []


def _stream_header_problems(exchange: Exchange) -> Iterator[str]:
    if exchange.headers["content-type"] != STREAM_TYPE:
        yield f"a stream of type {exchange.headers['content-type']!r}"
    if "no-cache" not in exchange.headers.get("cache-control", ""):
        yield "a stream that may be cached"
    if "content-length" in exchange.headers:
        yield "a stream with a length"


def _stream(row: Row, exchange: Exchange) -> list[str]:
    if row.event is None:
        return ["it has no streams"]
    return stream_problems(row, exchange.request, exchange.body, whole=exchange.whole)


def _whole(row: Row, exchange: Exchange, content_type: str) -> list[str]:
    if content_type.partition(";")[0] in row.plain:
        return []
    if content_type != "application/json" or row.whole is None:
        return [f"an answer of type {content_type!r}"]
    return problems_of(_with_numbers(exchange.request, json.loads(exchange.body)), row.whole)


def _with_numbers(asked: dict[str, Any], value: Any) -> Any:
    """OpenAI publishes vectors as numbers only; whoever asked for base64 must have got nothing else."""
    if asked.get("encoding_format") != "base64":
        return value
    return value | {
        "data": [
            item
            | {"embedding": array.array("f", base64.b64decode(item["embedding"], validate=True)).tolist()}
            for item in value["data"]
        ]
    }


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
