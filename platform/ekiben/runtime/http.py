"""Requests to a replica and what they are answered with: bodies with bounds, SSE framing, the error envelope.

Raw ASGI, since a mounted framework costs more than most of what the engines need for a token. Routes
are `Route` values; each ability's module has a list of them; `ekiben.runtime.asgi` dispatches.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from python_multipart.multipart import parse_options_header

from ekiben.client_watch import Watch
from ekiben.contract.engine import LoadedModel
from ekiben.contract.model import Ability, ModelSpec
from ekiben.errors import (
    EkibenError,
    InvalidRequest,
    ModelNotFound,
    RequestTooLarge,
    UnsupportedMediaType,
    envelope,
)
from ekiben.plugins.dialects import ErrorForm
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.form import MAX_FORM_BYTES, Form, FormReader
from ekiben.runtime.work import WorkBook

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)

MAX_JSON_BYTES: Final = 32 * 2**20
MODEL_HEADER: Final = "x-ekiben-model"
"""What the name in the body stands for, where the platform knows and the replica cannot."""

PATIENCE_HEADER: Final = "x-stainless-read-timeout"
SSE_DONE: Final = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client hung up; nobody is left to be answered."""


class StreamBroken(Exception):
    """A stream without a way to tell errors failed half way: the server must cut the connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """A response that is sent as it is made. Closed when the client leaves.

    `events`: the chunks are SSE, so an error after the first is told as an event; in other streams the
    connection is broken off instead, so that no client takes half for whole.
    """

    chunks: AsyncGenerator[bytes, None]
    content_type: str = "text/event-stream; charset=utf-8"
    events: bool = True


class Request:
    """One request to the replica's model. `respond` has read the body before a handler sees it."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        model: ModelSpec,
        fronts: Fronts,
        *,
        work: WorkBook | None = None,
    ) -> None:
        """`work`: where long work tells how far it has come, if anybody is told."""
        self.model = model
        self.loaded: LoadedModel = fronts.loaded
        self._fronts = fronts
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.raw = b""
        """The body, unless it is a form."""
        self._receive = receive
        self._form: Form | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._undertaking = None if work is None else work.open(request=self.request_id, route=self.path)

    def tell(self, done: float, *, total: float | None, unit: str) -> None:
        """How far a request has come that takes long: see `ekiben.runtime.work`. Told until it ends."""
        if self._undertaking is not None:
            self._undertaking.tell(done, total=total, unit=unit)

    def able(self, ability: Ability) -> Any:
        """An object of the ability's protocol (`ekiben.contract.abilities`), to ask the model through."""
        return self._fronts.able(ability, patience_s=self.patience_s)

    @property
    def patience_s(self) -> float | None:
        """After how long the client gives up, as the official SDKs tell; None: it does not say."""
        try:
            seconds = float(self.header(PATIENCE_HEADER))
        except ValueError:
            return None
        return seconds if 0 < seconds < math.inf else None

    def header(self, name: str, default: str = "") -> str:
        """A header by its lower-case name."""
        value = self.headers.get(name.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    @property
    def request_id(self) -> str:
        """As minted by the gateway; empty when a Bento is served alone and the client sent none."""
        return self.header("x-request-id")

    @property
    def content_type(self) -> str:
        """Without parameters, lower case."""
        return self.header("content-type").partition(";")[0].strip().lower()

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises UnsupportedMediaType and InvalidRequest."""
        if self.content_type not in ("application/json", ""):
            raise UnsupportedMediaType(f"content-type must be application/json, not {self.content_type!r}")
        return parse_json_object(self.raw)

    def form(self) -> Form:
        """The body as multipart/form-data, its files on disk. Raises UnsupportedMediaType."""
        if self._form is None:
            raise UnsupportedMediaType(
                f"content-type must be multipart/form-data, not {self.content_type or 'absent'!r}"
            )
        return self._form

    def restated(self, body: Mapping[str, Any]) -> Request:
        """The same request in other words."""
        other = copy.copy(self)
        other.raw = json.dumps(body).encode()
        return other

    async def read(self) -> None:
        """Receive the whole body, within bounds. Raises ClientGone and what a broken body deserves."""
        if self.content_type == "multipart/form-data":
            await self._read_form()
        else:
            self.raw = b"".join([chunk async for chunk in self._chunks(MAX_JSON_BYTES)])

    def watch(self, on_left: Callable[[], None]) -> Watch:
        """Hear of it when the client leaves. Only after `read`; close it in the end."""
        return Watch(self._receive, on_left, name=f"watch {self.path}")

    def close(self) -> None:
        """Remove what was spooled to disk, and what was told of it."""
        if self._undertaking is not None:
            self._undertaking.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _read_form(self) -> None:
        _, options = parse_options_header(self.headers[b"content-type"])
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidRequest("the content-type multipart/form-data needs a boundary")
        self._folder = tempfile.TemporaryDirectory(prefix="ekiben-upload-")
        with closing(FormReader(Path(self._folder.name), boundary)) as reader:
            async for chunk in self._chunks(MAX_FORM_BYTES):
                reader.feed(chunk)
            self._form = reader.finish()

    async def _chunks(self, limit_bytes: int) -> AsyncGenerator[bytes, None]:
        declared = self.header("content-length")
        if declared.isdigit() and int(declared) > limit_bytes:
            raise RequestTooLarge(f"the body has {declared} bytes, the limit is {limit_bytes}")
        received = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            received += len(chunk)
            if received > limit_bytes:
                raise RequestTooLarge(f"the body is larger than the limit of {limit_bytes} bytes")
            more = message.get("more_body", False)
            if chunk:
                yield chunk


Handler: TypeAlias = Callable[[Request], Awaitable[Answer | Stream]]


class OpenAIErrors:
    """The OpenAI envelope."""

    def body(self, error: EkibenError, *, request_id: str) -> bytes:
        return json.dumps(envelope(error)).encode()

    def event(self, body: bytes) -> bytes:
        return sse(body)


OPENAI_ERRORS: Final = OpenAIErrors()


@dataclass(frozen=True, slots=True)
class Route:
    """A path that a replica serves when its model has one of the abilities."""

    method: str
    path: str
    abilities: frozenset[Ability]
    handler: Handler
    errors: ErrorForm = OPENAI_ERRORS


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object of strict JSON (no NaN, no duplicate keys). Raises InvalidRequest."""
    try:
        value = _STRICT.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return value


_STRICT: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs)


def check_model_name(request: Request, name: object, *, adapters: bool = False) -> str:
    """The name under which the answer goes: of this replica's model, or of one of its adapters.

    `name` is the `model` of a body. `adapters`: the route can serve them. Raises InvalidRequest and
    ModelNotFound.
    """
    if name is None or name == "":
        raise InvalidRequest("you must provide a model parameter", param="model")
    if not isinstance(name, str):
        raise InvalidRequest("'model' must be a text", param="model")
    model = request.model
    meant = request.header(MODEL_HEADER) or name
    if not model.answers_to(meant):
        raise ModelNotFound(
            f"the model {meant[:128]!r} is not served here; this is {model.name!r}", param="model"
        )
    if model.adapter_of(meant) is None:
        return model.name
    if not adapters:
        raise InvalidRequest(
            f"{request.path} cannot be answered by an adapter: ask {model.name!r}", param="model"
        )
    return meant


def sse(data: bytes) -> bytes:
    """One event that carries JSON."""
    return b"data: " + data + b"\n\n"


async def sse_stream(objects: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """JSON objects as the events of a completed OpenAI stream, `[DONE]` at its end only."""
    async with aclosing(objects):
        async for item in objects:
            yield sse(item)
    yield SSE_DONE


async def sse_objects(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The objects of an `sse_stream`, each of whose chunks is one event."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk != SSE_DONE:
                yield chunk.removeprefix(b"data: ")
