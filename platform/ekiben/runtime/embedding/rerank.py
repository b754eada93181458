"""`POST /v1/rerank` and `POST /v2/rerank`: a query and documents in, the documents by relevance out.

The first is Jina's shape, the second Cohere's: they differ in whether documents come back unasked.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any, Final

import msgspec

from ekiben.contract.abilities import Rerank, Rerankings, RerankRequest
from ekiben.contract.model import Ability
from ekiben.errors import EngineError, InvalidRequest
from ekiben.runtime.http import Answer, Request, Route, check_model_name

MAX_DOCUMENTS: Final = 10_000
MAX_CHARACTERS: Final = 2**18
"""Of the query, and of each document."""
MAX_TOKENS: Final = 2**20

_FIELDS: Final = ("model", "query", "documents", "top_n", "return_documents", "max_tokens_per_doc")


async def rerank(request: Request, *, returns_documents: bool) -> Answer:
    """Answers once all documents are scored. `returns_documents`: when the request does not say."""
    body = request.json()
    if unknown := [name for name in body if name not in _FIELDS]:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not a field of this request", param=unknown[0][:64])
    model = check_model_name(request, body.get("model"))
    documents = _documents(body.get("documents"))
    asked = RerankRequest(
        query=_text(body.get("query"), "query"),
        documents=documents,
        max_tokens_per_document=_whole(body, "max_tokens_per_doc", highest=MAX_TOKENS),
    )
    top_n = _whole(body, "top_n", highest=2**31 - 1)
    shown = body.get("return_documents")
    if not isinstance(shown, bool | None):
        raise InvalidRequest("'return_documents' must be true or false", param="return_documents")
    engine: Rerank = request.able(Ability.RERANK)
    rankings = await engine.rerank(asked)
    if len(rankings.scores) != len(documents):
        raise EngineError(f"the engine scored {len(rankings.scores)} of {len(documents)} documents")
    returned = documents if (returns_documents if shown is None else shown) else None
    return Answer(render(rankings, model=model, documents=returned, top_n=top_n))


def render(
    rankings: Rerankings, *, model: str, documents: list[str] | None = None, top_n: int | None = None
) -> bytes:
    """The response object, encoded: the most relevant first, equals in the order of the request."""
    order = sorted(range(len(rankings.scores)), key=lambda index: -rankings.scores[index])
    results = [
        {"index": index}
        | ({} if documents is None else {"document": {"text": documents[index]}})
        | {"relevance_score": rankings.scores[index]}
        for index in order[:top_n]
    ]
    usage = {"prompt_tokens": rankings.prompt_tokens, "total_tokens": rankings.prompt_tokens}
    return msgspec.json.encode(
        {"id": f"rerank-{uuid.uuid4().hex}", "model": model, "usage": usage, "results": results}
    )


def _documents(value: object) -> list[str]:
    if value is None:
        raise InvalidRequest("'documents' is required", param="documents")
    if not isinstance(value, list):
        raise InvalidRequest("'documents' must be a list of texts", param="documents")
    if not value:
        raise InvalidRequest("'documents' is empty: send at least one", param="documents")
    if len(value) > MAX_DOCUMENTS:
        raise InvalidRequest(
            f"'documents' has {len(value)} entries, the limit is {MAX_DOCUMENTS}", param="documents"
        )
    return [_document(entry, f"documents.{index}") for index, entry in enumerate(value)]


def _document(value: Any, param: str) -> str:
    """A text, or an object that holds one."""
    if isinstance(value, dict):
        if strange := [name for name in value if name != "text"]:
            raise InvalidRequest(
                f"{param!r} may hold 'text' and nothing else", param=f"{param}.{strange[0]:.64}"
            )
        return _text(value.get("text"), f"{param}.text")
    return _text(value, param)


def _text(value: object, param: str) -> str:
    if value is None:
        raise InvalidRequest(f"{param!r} is required", param=param)
    if not isinstance(value, str):
        raise InvalidRequest(f"{param!r} must be a text", param=param)
    if not value:
        raise InvalidRequest(f"{param!r} is an empty text", param=param)
    if len(value) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"{param!r} has {len(value)} characters, the limit is {MAX_CHARACTERS}", param=param
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{param!r} has half of a surrogate pair", param=param) from None
    return value


def _whole(body: dict[str, Any], name: str, *, highest: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise InvalidRequest(f"{name!r} must be a whole number from 1 to {highest}", param=name)
    return value


_ABILITIES: Final = frozenset({Ability.RERANK})
_AS_JINA: Final = partial(rerank, returns_documents=True)
_AS_COHERE: Final = partial(rerank, returns_documents=False)

ROUTES: Final = (
    Route("POST", "/rerank", _ABILITIES, _AS_JINA),
    Route("POST", "/v1/rerank", _ABILITIES, _AS_JINA),
    Route("POST", "/v2/rerank", _ABILITIES, _AS_COHERE),
)
