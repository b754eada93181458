"""Requests that nobody would write: no 5xx, no hang, and healthy after.

Bodies begin as good ones, and then some of their published fields, or fields within them, get values from
anywhere. What is answered is judged as every answer is. `slow` does the same for longer, and anew each time.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.engines import GGUF_MODEL
from tests.conformance.shapes import published
from tests.running import Platform

TIMEOUT_S: Final = 60
SAY: Final = [{"role": "user", "content": "Say hi."}]
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}

GOOD: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *SAY],
        "tools": [TOOL],
        "tool_choice": "auto",
        "stop": ["x"],
        "logit_bias": {"5": 1},
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"prompt": ["One,", "Two,"], "logprobs": 1, "stop": "x", "stream": False},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Say hi."}]}],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
        "text": {"format": {"type": "text"}},
        "reasoning": {},
        "store": False,
    },
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}],
        "system": "Be brief.",
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "max_tokens": 2,
    },
    "/v1/tokenize": {"messages": SAY, "add_generation_prompt": True},
    "/v1/detokenize": {"tokens": [1, 2, 3]},
    "/v1/moderations": {"input": ["a", "b"]},
    "/v1/rerank": {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/v1/embeddings": {"input": ["a"], "dimensions": 3},
    "/v1/audio/speech": {"input": "a", "voice": "alloy", "speed": 1},
}
COMPONENTS: Final = {
    "/v1/chat/completions": "CreateChatCompletionRequest",
    "/v1/completions": "CreateCompletionRequest",
    "/v1/responses": "CreateResponse",
    "/v1/embeddings": "CreateEmbeddingRequest",
    "/v1/audio/speech": "CreateSpeechRequest",
    "/v1/moderations": "CreateModerationRequest",
}
SMALL: Final = {"max_tokens": 2, "max_completion_tokens": 2, "max_output_tokens": 16, "n": 2, "best_of": 2}
"""What a request may cost: a larger value that is valid would only keep the model busy."""

TEXTS: Final = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "\0", "<|im_end|>", "\ud800", "x" * 5000, "{{ 7*7 }}", "a\r\nb", "../../etc", "null"]
    ),
)
NUMBERS: Final = st.one_of(
    st.integers(-3, 200),
    st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**400, -1, 0, 0.5, -0.0, 1e308, 1e-320]),
)
VALUES: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["type", "role", "content", "text", "name", "function"]), TEXTS),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    """A body that was good once."""
    body: dict[str, Any] = json.loads(json.dumps({"model": GGUF_MODEL, **GOOD[path]}))
    for _ in range(draw(st.integers(1, 3))):
        if not (places := list(_places(body))):
            break
        place, key = draw(st.sampled_from(places))
        if isinstance(place, dict) and place is body:
            key = draw(st.sampled_from(sorted({key, *_fields(path)})))
        if draw(st.booleans()) or not isinstance(place, dict):
            place[key] = draw(VALUES)
        else:
            place.pop(key, None)
    raw = json.dumps(_bounded(body)).encode()
    return draw(
        st.sampled_from([raw, raw, raw, raw, raw[: len(raw) // 2], raw + b"}", raw.replace(b'"', b"'")])
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every dictionary and list in it, with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _fields(path: str) -> set[str]:
    if path not in COMPONENTS:
        return set(GOOD[path])
    return _properties(published()[COMPONENTS[path]])


def _properties(schema: Mapping[str, Any]) -> set[str]:
    if "$ref" in schema:
        return _properties(published()[schema["$ref"].rpartition("/")[2]])
    branches = [*schema.get("allOf", ()), *schema.get("anyOf", ())]
    return set(schema.get("properties", ())).union(*map(_properties, branches))


def _bounded(body: dict[str, Any]) -> dict[str, Any]:
    default = {"max_output_tokens": 16} if "input" in body else {"max_tokens": 2}
    for name, limit in SMALL.items():
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > limit:
            body[name] = limit
    return {name: value for name, value in default.items() if body.get(name) is None} | {
        name: value for name, value in body.items() if value is not None or name not in default
    }


def send(platform: Platform, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        told = response.read()
        assert response.status < 500, (response.status, told, body)
        assert response.getheader("content-type", "").startswith("text/event-stream") or json.loads(told)
        return response.status
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def _healthy_after(platform: Platform) -> Iterator[None]:
    yield
    body = json.dumps({"model": GGUF_MODEL, "messages": SAY, "max_tokens": 2}).encode()
    assert send(platform, "/v1/chat/completions", body) == 200
    assert platform.model(GGUF_MODEL)["in_flight"] == 0
    assert len(platform.model(GGUF_MODEL)["replicas"]) == 1


QUICK: Final = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG: Final = settings(QUICK, max_examples=400, derandomize=False)


@pytest.mark.parametrize("path", GOOD)
def test_a_few(platform: Platform, path: str) -> None:
    QUICK(given(bodies(path))(lambda body: _survives(platform, path, body)))()


@pytest.mark.slow
@pytest.mark.parametrize("path", GOOD)
def test_many(platform: Platform, path: str) -> None:
    LONG(given(bodies(path))(lambda body: _survives(platform, path, body)))()


def _survives(platform: Platform, path: str, body: bytes) -> None:
    send(platform, path, body)
