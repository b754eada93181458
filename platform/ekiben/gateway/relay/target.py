"""What the gateway must know of a request before it can send it on: the model, and whether to stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ekiben.contract.model import NAME_PATTERN
from ekiben.errors import InvalidRequest, ModelNotFound, UnsupportedMediaType
from ekiben.gateway.http.body import Body, read_body
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.http.multipart import FormFields

MAX_JSON_BYTES: Final = 32 * 2**20
JSON_TYPE: Final = "application/json"
FORM_TYPE: Final = "multipart/form-data"
MAX_SHOWN: Final = 100
"""Characters of a client's text in an error."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a request is for."""

    model: str
    """As the client wrote it."""
    stream: bool


class _Fields(msgspec.Struct):
    """Everything else is only checked to be JSON."""

    model: Any = None
    stream: Any = None


_DECODER: Final = msgspec.json.Decoder(_Fields)


async def read_target(exchange: Exchange, *, types: frozenset[str], limit_bytes: int) -> tuple[Target, Body]:
    """Receive the body and look for the two fields.

    Raises ClientGone, RequestTooLarge, UnsupportedMediaType, InvalidRequest, and ModelNotFound for what
    cannot be a name. On success the body is the caller's to close.
    """
    content_type = exchange.headers.get(b"content-type", b"")
    kind = check_type(exchange, types)
    form = FormFields(content_type) if kind == FORM_TYPE else None
    if form is not None:
        body = await read_body(exchange, limit_bytes=limit_bytes, tell=form.feed)
    else:
        body = await read_body(exchange, limit_bytes=min(limit_bytes, MAX_JSON_BYTES))
    try:
        return (_parse_json(body) if form is None else _parse_form(form)), body
    except BaseException:
        body.close()
        raise


def check_type(exchange: Exchange, types: frozenset[str]) -> str:
    """The media type of the body. Raises UnsupportedMediaType, also for compressed bodies."""
    encoding = exchange.headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise UnsupportedMediaType("compressed requests are not taken: send the body as it is")
    content_type = exchange.headers.get(b"content-type", b"")
    kind = content_type.partition(b";")[0].strip().lower().decode("latin-1")
    if kind not in types:
        wanted = " or ".join(sorted(types))
        raise UnsupportedMediaType(f"content-type must be {wanted}, not {kind[:100] or 'absent'!r}")
    return kind


def _parse_form(form: FormFields) -> Target:
    form.finish()
    return Target(_model(form.value("model")), form.value("stream") in ("true", "True", "1"))


def _parse_json(body: Body) -> Target:
    try:
        fields = _DECODER.decode(body.view())
    except msgspec.ValidationError:
        raise InvalidRequest("the body must be a JSON object") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if fields.stream is not None and not isinstance(fields.stream, bool):
        raise InvalidRequest("'stream' must be true or false", param="stream")
    return Target(_model(fields.model), fields.stream is True)


def _model(value: object) -> str:
    if value is None:
        raise InvalidRequest("'model' is missing: name one of GET /v1/models", param="model")
    if not isinstance(value, str):
        raise InvalidRequest("'model' must be a string", param="model")
    if not NAME_PATTERN.fullmatch(value):
        shown = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…"
        raise ModelNotFound(f"the model {shown!r} does not exist: see GET /v1/models", param="model")
    return value
