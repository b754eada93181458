"""Whether an error is told as its dialect tells errors."""

from __future__ import annotations

from typing import Any, Final

from tests.conformance.shapes import problems_of
from tests.conformance.surface import Shape

_TEXT_OR_NULL: Final = {"type": ["string", "null"], "minLength": 1}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string", "minLength": 1},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
        }
    },
}
_ENVELOPES: Final = {
    "openai": Shape(component="ErrorResponse", schema=_ERROR),
    "anthropic": Shape("anthropic.types:ErrorResponse"),
}
_LEAKS: Final = ("Traceback", 'File "/', "site-packages")


def envelope_problems(value: Any, dialect: str) -> list[str]:
    """Of an error's body, or of an error in a stream."""
    found = problems_of(value, _ENVELOPES[dialect])
    return found or [f"the message tells of {leak!r}" for leak in _LEAKS if leak in value["error"]["message"]]
