"""Whole answers that the gateway makes itself, and how errors are told to whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ekiben.errors import EkibenError, envelope
from ekiben.plugins.dialects import ErrorForm, Spoken

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A body with its status and headers."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, *, status: int = 200) -> Answer:
    """Dataclasses, enums and dates are rendered too; infinity and NaN become null."""
    return Answer(msgspec.json.encode(value, enc_hook=str), status)


class OpenAIErrors:
    """The OpenAI envelope, and the event that tells it inside a stream; `[DONE]` never follows it."""

    def body(self, error: EkibenError, *, request_id: str) -> bytes:
        return msgspec.json.encode(envelope(error), enc_hook=str)

    def event(self, body: bytes) -> bytes:
        return b"data: " + body + b"\n\n"


@dataclass(frozen=True, slots=True)
class Manner:
    """What clients of a route expect besides its answers."""

    errors: ErrorForm
    key_header: bytes | None = None
    """Where they may send their key instead of `authorization`."""
    request_id_header: bytes | None = None
    """Where they look for the request's id, besides `x-request-id`."""
    enveloped: bool = False
    """Errors are told as OpenAI tells them."""

    def error_answer(self, error: EkibenError, *, request_id: str) -> Answer:
        body = self.errors.body(error, request_id=request_id)
        return Answer(body, error.status, headers=error.headers())

    def error_event(self, error: EkibenError, *, request_id: str) -> bytes:
        return self.errors.event(self.errors.body(error, request_id=request_id))

    def is_error(self, body: bytes) -> bool:
        """Whether a replica's error body is already what clients expect."""
        return is_envelope(body) if self.enveloped else _object(body) is not None


OPENAI: Final = Manner(OpenAIErrors(), enveloped=True)


def manner_of(spoken: Spoken) -> Manner:
    """Of a dialect's routes."""
    dialect = spoken.dialect
    return Manner(spoken.errors, _header(dialect.key_header), _header(dialect.request_id_header))


def _header(name: str | None) -> bytes | None:
    return None if name is None else name.lower().encode("latin-1")


def is_envelope(body: bytes) -> bool:
    """Whether it is an error as OpenAI tells it."""
    error = (_object(body) or {}).get("error")
    return isinstance(error, dict) and {"message", "type", "param", "code"} <= error.keys()


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
