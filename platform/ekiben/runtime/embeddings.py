"""`POST /v1/embeddings`: texts or tokens in, vectors out as numbers or as base64."""

from __future__ import annotations

import array
import base64
import sys
from typing import Any, Final, cast

import msgspec

from ekiben.contract.abilities import Embed, Embeddings, EmbedInput, EmbedRequest
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest
from ekiben.runtime.http import Answer, Request, Route, check_model_name

MAX_INPUTS: Final = 2048
MAX_INPUT_CHARACTERS: Final = 2**18
MAX_INPUT_TOKENS: Final = 2**16

_FIELDS: Final = ("model", "input", "encoding_format", "dimensions", "user")


async def create_embeddings(request: Request) -> Answer:
    """Answers only once all vectors are there; a client that leaves ends the work."""
    body = request.json()
    if unknown := [name for name in body if name not in _FIELDS]:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not a field of this request", param=unknown[0])
    model = check_model_name(request, body.get("model"))
    inputs = parse_input(body.get("input"))
    as_base64 = _encoding_format(body.get("encoding_format"))
    dimensions = _dimensions(body.get("dimensions"))
    if not isinstance(body.get("user", ""), str):
        raise InvalidRequest("'user' must be a text", param="user")
    engine: Embed = request.able(Ability.EMBED)
    embeddings = await engine.embed(EmbedRequest(inputs=inputs, dimensions=dimensions))
    return Answer(render(embeddings, model=model, as_base64=as_base64))


def parse_input(value: object) -> list[EmbedInput]:
    """One text, up to 2048 texts, tokens, or token arrays. Raises InvalidRequest (param `input`)."""
    if value is None:
        raise _bad_input("is required")
    if isinstance(value, str):
        return [_text(value)]
    if not isinstance(value, list):
        raise _bad_input("must be a text, a list of texts, a list of tokens or a list of token lists")
    if not value:
        raise _bad_input("is an empty list")
    if _is_token(value[0]):
        return [_tokens(value)]
    if len(value) > MAX_INPUTS:
        raise _bad_input(f"has {len(value)} entries, the limit is {MAX_INPUTS}")
    if isinstance(value[0], list):
        return [_tokens(entry, index) for index, entry in enumerate(value)]
    return [_text(entry, index) for index, entry in enumerate(value)]


def render(embeddings: Embeddings, *, model: str, as_base64: bool) -> bytes:
    """The response object, encoded."""
    vectors = _base64_rows(embeddings.vectors) if as_base64 else embeddings.vectors.tolist()
    usage = {"prompt_tokens": embeddings.prompt_tokens, "total_tokens": embeddings.prompt_tokens}
    data = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
    ]
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _base64_rows(vectors: memoryview) -> list[str]:
    """Each row as little-endian float32, whatever this machine's byte order."""
    rows, dimensions = cast("tuple[int, int]", vectors.shape)
    values = vectors.cast("B")
    if sys.byteorder == "big":
        swapped = array.array("f", values.tobytes())
        swapped.byteswap()
        values = memoryview(swapped).cast("B")
    size = dimensions * vectors.itemsize
    return [base64.b64encode(values[row * size : (row + 1) * size]).decode("ascii") for row in range(rows)]


def _text(value: object, index: int | None = None) -> str:
    if not isinstance(value, str):
        raise _bad_input("must be a text; all entries must be of one kind", index)
    if not value:
        raise _bad_input("is an empty text", index)
    if len(value) > MAX_INPUT_CHARACTERS:
        raise _bad_input(f"has {len(value)} characters, the limit is {MAX_INPUT_CHARACTERS}", index)
    if not _is_unicode(value):
        raise _bad_input("has half of a surrogate pair, which is no character", index)
    return value


def _tokens(value: object, index: int | None = None) -> list[int]:
    if not isinstance(value, list) or not all(map(_is_token, value)):
        raise _bad_input("must be a list of tokens, which are whole numbers from 0", index)
    if not value:
        raise _bad_input("is an empty list", index)
    if len(value) > MAX_INPUT_TOKENS:
        raise _bad_input(f"has {len(value)} tokens, the limit is {MAX_INPUT_TOKENS}", index)
    return value


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encoding_format(value: object) -> bool:
    """Whether base64 is wanted."""
    if value in (None, "float"):
        return False
    if value == "base64":
        return True
    raise InvalidRequest(
        f"'encoding_format' must be float or base64, not {value!r:.50}", param="encoding_format"
    )


def _dimensions(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest("'dimensions' must be a whole number from 1", param="dimensions")
    return value


def _bad_input(reason: str, index: int | None = None) -> InvalidRequest:
    subject = "'input'" if index is None else f"entry {index} of 'input'"
    return InvalidRequest(f"{subject} {reason}", param="input")


ROUTES: Final = (Route("POST", "/v1/embeddings", frozenset({Ability.EMBED}), create_embeddings),)
