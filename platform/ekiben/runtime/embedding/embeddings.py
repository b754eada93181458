"""`POST /v1/embeddings`: texts, tokens or pictures in, vectors out as numbers or as base64."""

from __future__ import annotations

import array
import base64
import sys
from dataclasses import replace
from typing import Any, Final, Literal, cast

import msgspec

from ekiben.contract.abilities import Embed, Embeddings, EmbedRequest
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest
from ekiben.runtime.embedding.inputs import developed, parse_input
from ekiben.runtime.http import Answer, Request, Route, check_model_name

_FIELDS: Final = ("model", "input", "encoding_format", "dimensions", "user")
_FURTHER_FIELDS: Final = ("truncate", "truncate_prompt_tokens", "prompt_name", "input_type")
"""That other servers of this route have, and OpenAI has not."""
_INPUT_TYPES: Final[dict[str, Literal["query", "document"]]] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "search_document": "document",
    "passage": "document",
}


async def create_embeddings(request: Request) -> Answer:
    """Answers only once all vectors are there; a client that leaves ends the work."""
    body = request.json()
    if unknown := [name for name in body if name not in (*_FIELDS, *_FURTHER_FIELDS)]:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not a field of this request", param=unknown[0])
    model = check_model_name(request, body.get("model"))
    as_base64 = _encoding_format(body.get("encoding_format"))
    if not isinstance(body.get("user", ""), str):
        raise InvalidRequest("'user' must be a text", param="user")
    asked, given = _asked(body), parse_input(body.get("input"))
    engine: Embed = request.able(Ability.EMBED)
    async with developed(given) as inputs:
        embeddings = await engine.embed(replace(asked, inputs=inputs))
    return Answer(render(embeddings, model=model, as_base64=as_base64))


def _asked(body: dict[str, Any]) -> EmbedRequest:
    """All but the inputs."""
    request = EmbedRequest(
        inputs=(),
        dimensions=_whole(body, "dimensions"),
        prompt_name=_prompt_name(body.get("prompt_name")),
        input_type=_input_type(body.get("input_type")),
        max_tokens=_max_tokens(body),
        truncate=_truncate(body.get("truncate")),
    )
    if request.prompt_name is not None and request.input_type is not None:
        raise InvalidRequest("'prompt_name' and 'input_type' say the same: send one", param="input_type")
    return request


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


def _encoding_format(value: object) -> bool:
    """Whether base64 is wanted."""
    if value in (None, "float"):
        return False
    if value == "base64":
        return True
    raise InvalidRequest(
        f"'encoding_format' must be float or base64, not {value!r:.50}", param="encoding_format"
    )


def _whole(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest(f"{name!r} must be a whole number from 1", param=name)
    return value


def _max_tokens(body: dict[str, Any]) -> int | None:
    """-1 stands for as many as the model takes."""
    name = "truncate_prompt_tokens"
    value = body.get(name)
    return None if value == -1 and not isinstance(value, bool) else _whole(body, name)


def _truncate(value: object) -> bool | None:
    """True or false, or else the end that is cut off: END or NONE."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.upper() in ("END", "NONE"):
        return value.upper() == "END"
    raise InvalidRequest(
        f"'truncate' must be true, false, END or NONE, not {value!r:.50}: texts are cut at their end",
        param="truncate",
    )


def _prompt_name(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest("'prompt_name' must be a text", param="prompt_name")


def _input_type(value: object) -> Literal["query", "document"] | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _INPUT_TYPES:
        return _INPUT_TYPES[value]
    raise InvalidRequest(
        f"'input_type' must be one of {', '.join(_INPUT_TYPES)}, not {value!r:.50}", param="input_type"
    )


ROUTES: Final = (Route("POST", "/v1/embeddings", frozenset({Ability.EMBED}), create_embeddings),)
