"""Whole answers that the gateway makes itself, and the one rendering of an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ekiben.errors import EkibenError, envelope

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


def error_body(error: EkibenError) -> bytes:
    """The OpenAI envelope."""
    return msgspec.json.encode(envelope(error), enc_hook=str)


def error_answer(error: EkibenError) -> Answer:
    return Answer(error_body(error), error.status, headers=error.headers())


def error_event(error: EkibenError) -> bytes:
    """The event that tells an error inside a stream; `[DONE]` never follows it."""
    return b"data: " + error_body(error) + b"\n\n"


def is_envelope(body: bytes) -> bool:
    """Whether a replica's error body is already what clients expect."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    error = value.get("error") if isinstance(value, dict) else None
    return isinstance(error, dict) and {"message", "type", "param", "code"} <= error.keys()
