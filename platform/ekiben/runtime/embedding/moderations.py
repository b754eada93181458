"""`POST /v1/moderations`: texts in, and for each of them what speaks against it, in OpenAI's categories.

Says what the model says and judges nothing by itself: scores and thresholds are the engine's.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

import msgspec

from ekiben.contract.abilities import Moderate, Moderated, ModerateRequest, Moderation
from ekiben.contract.model import Ability
from ekiben.errors import EngineError, InvalidRequest
from ekiben.runtime.http import Answer, Request, Route, check_model_name

CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""OpenAI's: each of them is in every answer, and no other."""
MAX_TEXTS: Final = 2048
MAX_CHARACTERS: Final = 2**18
"""Of each text."""

_FIELDS: Final = ("model", "input")


async def create_moderation(request: Request) -> Answer:
    """Answers once all texts are judged; a client that leaves ends the work."""
    body = request.json()
    if unknown := [name for name in body if name not in _FIELDS]:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not a field of this request", param=unknown[0][:64])
    model = check_model_name(request, body.get("model"))
    texts = parse_input(body.get("input"))
    engine: Moderate = request.able(Ability.MODERATE)
    moderation = await engine.moderate(ModerateRequest(texts=texts))
    if len(moderation.texts) != len(texts):
        raise EngineError(f"the engine judged {len(moderation.texts)} of {len(texts)} texts")
    return Answer(render(moderation, model=model))


def parse_input(value: object) -> list[str]:
    """A text, up to 2048 texts, or the parts of one text. Raises InvalidRequest (param `input`)."""
    if value is None:
        raise _bad("'input' is required", "input")
    if isinstance(value, str):
        return [_text(value, "input")]
    if not isinstance(value, list):
        raise _bad("'input' must be a text, a list of texts or a list of content parts", "input")
    if not value:
        raise _bad("'input' is an empty list", "input")
    if len(value) > MAX_TEXTS:
        raise _bad(f"'input' has {len(value)} entries, the limit is {MAX_TEXTS}", "input")
    if isinstance(value[0], dict):
        return ["\n".join(_part(part, f"input.{index}") for index, part in enumerate(value))]
    return [_text(entry, f"input.{index}") for index, entry in enumerate(value)]


def render(moderation: Moderation, *, model: str) -> bytes:
    """The response object, encoded."""
    results = [_result(text) for text in moderation.texts]
    return msgspec.json.encode({"id": f"modr-{uuid.uuid4().hex}", "model": model, "results": results})


def _result(text: Moderated) -> dict[str, Any]:
    """A category that the model knows nothing of has score 0, and applies to no kind of input.

    A category that only the model knows of counts for `flagged`, and is not shown.
    """
    return {
        "flagged": bool(text.flagged),
        "categories": {name: name in text.flagged for name in CATEGORIES},
        "category_scores": {name: float(text.scores.get(name, 0.0)) for name in CATEGORIES},
        "category_applied_input_types": {
            name: ["text"] if name in text.scores else [] for name in CATEGORIES
        },
    }


def _part(part: object, param: str) -> str:
    """The text of a content part."""
    if not isinstance(part, dict):
        raise _bad(f"{param!r} must be a content part: all entries must be of one kind", param)
    kind = part.get("type")
    if kind == "image_url":
        raise _bad(f"{param!r} is a picture: this model judges texts only", param)
    if kind != "text":
        raise _bad(f"'{param}.type' must be text, not {kind!r:.50}", f"{param}.type")
    if strange := [name[:64] for name in part if name not in ("type", "text")]:
        raise _bad(f"{strange[0]!r} is not a field of a text", f"{param}.{strange[0]}")
    return _text(part.get("text"), f"{param}.text")


def _text(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{param!r} must be a text: all entries must be of one kind", param)
    if not value:
        raise _bad(f"{param!r} is an empty text", param)
    if len(value) > MAX_CHARACTERS:
        raise _bad(f"{param!r} has {len(value)} characters, the limit is {MAX_CHARACTERS}", param)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(f"{param!r} has half of a surrogate pair", param) from None
    return value


def _bad(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(reason, param=param)


ROUTES: Final = (Route("POST", "/v1/moderations", frozenset({Ability.MODERATE}), create_moderation),)
