"""Requests that nobody would write: no 5xx, no hang, and healthy after.

Bodies begin as good ones, and then some of their published fields, or fields within them, get values from
anywhere. What is answered is judged as every answer is. `slow` does the same for longer, and anew each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.engines import GGUF_MODEL
from tests.conformance.shapes import published
from tests.fuzzing import LONG, QUICK, send, spoilt, written
from tests.running import Platform

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
}
COMPONENTS: Final = {
    "/v1/chat/completions": "CreateChatCompletionRequest",
    "/v1/completions": "CreateCompletionRequest",
    "/v1/responses": "CreateResponse",
}
SMALL: Final = {"max_tokens": 2, "max_completion_tokens": 2, "max_output_tokens": 16, "n": 2, "best_of": 2}
"""What a request may cost: a larger value that is valid would only keep the model busy."""


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    body = draw(spoilt({"model": GGUF_MODEL, **GOOD[path]}, frozenset(_fields(path))))
    return draw(written(_bounded(body)))


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


@pytest.fixture(autouse=True)
def _healthy_after(platform: Platform) -> Iterator[None]:
    yield
    body = json.dumps({"model": GGUF_MODEL, "messages": SAY, "max_tokens": 2}).encode()
    assert send(platform, "/v1/chat/completions", body) == 200
    assert platform.model(GGUF_MODEL)["in_flight"] == 0
    assert len(platform.model(GGUF_MODEL)["replicas"]) == 1


@pytest.mark.parametrize("path", GOOD)
def test_a_few(platform: Platform, path: str) -> None:
    QUICK(given(bodies(path))(lambda body: _survives(platform, path, body)))()


@pytest.mark.slow
@pytest.mark.parametrize("path", GOOD)
def test_many(platform: Platform, path: str) -> None:
    LONG(given(bodies(path))(lambda body: _survives(platform, path, body)))()


def _survives(platform: Platform, path: str, body: bytes) -> None:
    send(platform, path, body)
