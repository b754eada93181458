"""The part of the conformance suite that is about text: rerankers, tokenizers, and dialects.

Reached through `ekiben.contract.testing`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ekiben.contract.abilities import Rerank, RerankRequest, Tokenizer, TokenizeRequest
from ekiben.contract.conforming import expect
from ekiben.contract.dialect import Dialect, DialectRoute, Failure
from ekiben.errors import EkibenError, InvalidRequest

_TEXT: Final = "A lunch box."
_STRANGE: Final[tuple[Mapping[str, Any], ...]] = (
    {},
    {"model": 7},
    {"model": "m", "messages": "hi", "stream": "yes"},
    {"model": "m", "messages": [{"role": [], "content": {"type": None}}]},
)
_CHUNKS: Final[tuple[Mapping[str, Any], ...]] = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "Hi."}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
)
_HEAD: Final = {"id": "chatcmpl-1", "created": 1, "model": "m"}


async def check_rerank(model: Rerank) -> None:
    """Scores for every document, in the order of the request."""
    documents = ["The train leaves at nine.", "A banana is a fruit.", "x"]
    answer = await model.rerank(RerankRequest(query="When does the train leave?", documents=documents))
    expect(len(answer.scores) == len(documents), "there is one score for each document")
    expect(all(isinstance(score, float) for score in answer.scores), "scores are floats")
    expect(answer.scores[0] == max(answer.scores), "what answers the query has the highest score")
    expect(answer.prompt_tokens > 0, "the tokens are counted")


async def check_tokenizer(model: Tokenizer) -> None:
    """A text survives the way to tokens and back, and what is no token is refused."""
    tokens = await model.tokenize(TokenizeRequest(text=_TEXT, add_special_tokens=False))
    expect(len(tokens.ids) == len(tokens.texts) > 0, "each token has its text")
    back = await model.detokenize(tokens.ids)
    expect(back.strip().lower() == _TEXT.lower(), f"tokens stand for their text: {back!r} is not {_TEXT!r}")
    expect(model.max_model_tokens > 0, "it knows how long a request may be")
    try:
        await model.detokenize([2**31 - 1])
    except InvalidRequest:
        return
    expect(False, "a number that is no token must raise InvalidRequest")


def check_dialect(dialect: Dialect, requests: Mapping[str, Mapping[str, Any]]) -> None:
    """`requests`: for each of its paths a whole request, that is not streamed, to a model `m`."""
    paths = [route.path for route in dialect.routes]
    expect(sorted(paths) == sorted(requests), f"there is a request for each path: {', '.join(paths)}")
    for route in dialect.routes:
        expect(route.path.startswith("/") and "{" not in route.path, "a path is one, without parameters")
        _check_route(route, requests[route.path])
    for name in (dialect.key_header, dialect.request_id_header):
        expect(name is None or name == name.lower(), "headers are in lower case")
    for status in (400, 401, 403, 404, 405, 413, 415, 429, 499, 500, 502, 503, 504):
        failure = Failure(status=status, type="t", code=None, message="what happened", request_id="r")
        body = dialect.error(failure)
        expect(isinstance(json.loads(body), dict), "an error is a JSON object")
        expect(b"what happened" in body, "an error tells its message")
        _check_framing(dialect.error_event(body))


def _check_route(route: DialectRoute, request: Mapping[str, Any]) -> None:
    for strange in _STRANGE:
        try:
            route.translate(strange)
        except EkibenError as error:
            expect(error.status == 400, "what is wrong with a request is told with 400")
    body = route.translate(request).body
    expect(json.loads(json.dumps(body)).get("model") == "m", "the model's name is passed on")
    expect(not body.get("stream"), "what was not asked for as a stream is none")
    if route.target == "/v1/chat/completions":
        _check_chat(route.translate, request)


def _check_chat(translate: Callable[[Mapping[str, Any]], Any], request: Mapping[str, Any]) -> None:
    message = {"role": "assistant", "content": "Hi."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    answer = _HEAD | {"object": "chat.completion", "choices": [choice], "usage": _CHUNKS[-1]["usage"]}
    expect(b"Hi." in translate(request).whole(answer), "the text of an answer is in it")
    events = translate(request).events()
    told = events.begin()
    for chunk in _CHUNKS:
        told += events.feed({**_HEAD, "object": "chat.completion.chunk", **chunk})
    told += events.finish()
    expect(b"Hi." in told, "the text of a stream is in it")
    _check_framing(told)


def _check_framing(events: bytes) -> None:
    expect(events.endswith((b"\n\n", b"\r\n\r\n")), "an event ends with an empty line")
