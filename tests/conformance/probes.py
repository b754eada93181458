"""For each published request parameter: a value that asks for something, and what then must be seen.

A parameter without a probe fails the matrix, so that what OpenAI adds is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Answer = Any
"""A JSON body, or the list of a stream's events. A response also says whether it is `kept`."""

Effect = Callable[[Answer, Answer], bool]
"""Whether the answer with the parameter (first) shows it, beside the answer without (second)."""


@dataclass(frozen=True, slots=True)
class Probe:
    value: Any
    effect: Effect | None = None
    """None: nobody but the sender can see it (`HINT`), or it must be refused."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Sent in both requests."""
    hint: bool = False


HINT: Final = Probe("a hint", hint=True)
"""Tells the server of the caller or of costs, and asks for nothing that an answer shows."""


def _text(answer: Answer) -> str:
    if isinstance(answer, list):
        return ""
    if "output" in answer:
        return "".join(p.get("text", "") for i in answer["output"] for p in i.get("content") or ())
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def _differs(with_it: Answer, without: Answer) -> bool:
    return _text(with_it) != _text(without)


def _tokens_made(answer: Answer) -> int:
    usage = answer["usage"]
    return int(usage.get("completion_tokens") or usage.get("output_tokens"))


def _made(count: int) -> Effect:
    return lambda with_it, without: _tokens_made(with_it) == count != _tokens_made(without)


def _is_json(with_it: Answer, without: Answer) -> bool:
    return set(json.loads(_text(with_it))) == {"ok"}


def _calls(with_it: Answer, without: Answer) -> bool:
    if "output" in with_it:
        return [item["type"] for item in with_it["output"]] == ["function_call"]
    return bool(with_it["choices"][0]["message"].get("tool_calls"))


def _reads_more(with_it: Answer, without: Answer) -> bool:
    names = ("prompt_tokens", "input_tokens")
    counts = [next(a["usage"][n] for n in names if n in a["usage"]) for a in (with_it, without)]
    return bool(counts[0] > counts[1])


def _is_stream(with_it: Answer, without: Answer) -> bool:
    return isinstance(with_it, list) and len(with_it) > 1


_SCHEMA: Final = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_FUNCTION: Final = {"name": "answer", "parameters": _SCHEMA}
_TOOLS: Final = [{"type": "function", "function": _FUNCTION}]
_WILD: Final = {"temperature": 2, "seed": 7}
_WILD_RESPONSE: Final = {"temperature": 2}
_ONE_TOKEN: Final = {str(token): 100 for token in (260, 300)}

_SAMPLING: Final[dict[str, Probe]] = {
    "frequency_penalty": Probe(2, _differs),
    "presence_penalty": Probe(2, _differs),
    "logit_bias": Probe(_ONE_TOKEN, _differs),
    "max_tokens": Probe(2, _made(2)),
    "n": Probe(2, lambda a, b: [c["index"] for c in a["choices"]] == [0, 1]),
    "seed": Probe(8, _differs, given=_WILD),
    "stop": Probe(["a", "e", "o"], lambda a, b: len(_text(a)) < len(_text(b))),
    "stream": Probe(True, _is_stream),
    "stream_options": Probe(
        {"include_usage": True}, lambda a, b: bool(a[-1].get("usage")), given={"stream": True}
    ),
    "stream_options.include_obfuscation": Probe(
        {"include_obfuscation": True}, lambda a, b: "obfuscation" in a[0], given={"stream": True}
    ),
    "temperature": Probe(2, _differs, given={"seed": 7}),
    "top_p": Probe(0.001, _differs, given=_WILD),
    "user": HINT,
}

_CHAT: Final[dict[str, Probe]] = _SAMPLING | {
    "audio": Probe({"voice": "alloy", "format": "wav"}),
    "function_call": Probe({"name": "answer"}),
    "functions": Probe([_FUNCTION]),
    "logprobs": Probe(True, lambda a, b: bool(a["choices"][0]["logprobs"]["content"])),
    "max_completion_tokens": Probe(2, _made(2)),
    "metadata": Probe({"team": "a"}, hint=True),
    "modalities": Probe(["text", "audio"]),
    "moderation": Probe({"model": "omni-moderation-latest"}),
    "parallel_tool_calls": Probe(
        False,
        lambda a, b: len(a["choices"][0]["message"]["tool_calls"]) == 1,
        given={"tools": _TOOLS, "tool_choice": "required", "max_tokens": 64},
    ),
    "prediction": Probe({"type": "content", "content": "apple"}),
    "prompt_cache_key": HINT,
    "prompt_cache_options": Probe({}, hint=True),
    "prompt_cache_retention": Probe("24h", hint=True),
    "reasoning_effort": Probe("high", _reads_more),
    "response_format": Probe(
        {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
        _is_json,
        given={"max_tokens": 64},
    ),
    "safety_identifier": HINT,
    "service_tier": Probe("flex"),
    "store": Probe(True),
    "tool_choice": Probe(
        "required", _calls, given={"tools": _TOOLS, "tool_choice": "none", "max_tokens": 64}
    ),
    "tools": Probe(_TOOLS, _reads_more),
    "top_logprobs": Probe(
        3,
        lambda a, b: {len(t["top_logprobs"]) for t in a["choices"][0]["logprobs"]["content"]} == {3},
        given={"logprobs": True},
    ),
    "verbosity": Probe("low"),
    "web_search_options": Probe({}),
}

_COMPLETIONS: Final[dict[str, Probe]] = _SAMPLING | {
    "best_of": Probe(2, lambda a, b: _tokens_made(a) > _tokens_made(b)),
    "echo": Probe(True, lambda a, b: _text(a).startswith("apple apple")),
    "logprobs": Probe(2, lambda a, b: bool(a["choices"][0]["logprobs"]["tokens"])),
    "suffix": Probe(" and so on", _differs),
}

_EMBEDDINGS: Final[dict[str, Probe]] = {
    "dimensions": Probe(8, lambda a, b: len(a["data"][0]["embedding"]) == 8),
    "encoding_format": Probe("base64", lambda a, b: isinstance(a["data"][0]["embedding"], str)),
    "user": HINT,
}

_RESPONSE_TOOLS: Final = [{"type": "function", "strict": True, **_FUNCTION}]
_RESPONSES: Final[dict[str, Probe]] = {
    "access_programs": Probe([]),
    "background": Probe(True, lambda a, b: a["status"] in ("queued", "in_progress")),
    "background_options": Probe({"priority": "low"}),
    "context_management": Probe([{"type": "compaction"}]),
    "conversation": Probe("conv_1"),
    "image": Probe({"detail": "low"}),
    "include": Probe(
        ["message.output_text.logprobs"], lambda a, b: bool(a["output"][0]["content"][0]["logprobs"])
    ),
    "instructions": Probe("Answer in French, and only in capital letters, " * 9, _reads_more),
    "max_output_tokens": Probe(16, _made(16), given={"max_output_tokens": 17}),
    "max_tool_calls": Probe(1, hint=True),  # of tools that the server runs
    "metadata": Probe({"team": "a"}, lambda a, b: a["metadata"] == {"team": "a"}),
    "moderation": Probe({"model": "omni-moderation-latest"}),
    "parallel_tool_calls": Probe(False, lambda a, b: a["parallel_tool_calls"] is False),
    "previous_response_id": Probe("resp_1"),
    "prompt": Probe({"id": "pmpt_1"}),
    "prompt_cache_key": HINT,
    "prompt_cache_options": Probe({}, hint=True),
    "prompt_cache_retention": Probe("24h", hint=True),
    "reasoning": Probe({"effort": "high"}, _reads_more),
    "safety_identifier": HINT,
    "service_tier": Probe("flex"),
    "store": Probe(False, lambda a, b: b["kept"] and not a["kept"]),
    "stream": Probe(True, _is_stream),
    "stream_options": Probe(
        {"include_obfuscation": True},
        lambda a, b: any("obfuscation" in event for event in a),
        given={"stream": True},
    ),
    "temperature": Probe(2, _differs),
    "text": Probe(
        {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}},
        _is_json,
        given={"max_output_tokens": 64},
    ),
    "tool_choice": Probe(
        "required",
        _calls,
        given={"tools": _RESPONSE_TOOLS, "tool_choice": "none", "max_output_tokens": 64},
    ),
    "tools": Probe(_RESPONSE_TOOLS, _reads_more),
    "top_logprobs": Probe(
        2,
        lambda a, b: len(a["output"][0]["content"][0]["logprobs"][0]["top_logprobs"]) == 2,
        given={"include": ["message.output_text.logprobs"]},
    ),
    "top_p": Probe(0.001, lambda a, b: a["top_p"] == 0.001, given=_WILD_RESPONSE),
    "truncation": Probe("auto", lambda a, b: a["truncation"] == "auto"),
    "user": HINT,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    path: str
    component: str
    """Of the published schema."""
    types: str
    """Of the openai package."""
    base: Mapping[str, Any]
    probes: Mapping[str, Probe]
    structure: frozenset[str]
    """What no request can do without."""


_REPEATED: Final = "apple apple apple. Say it again and again: apple, apple, apple,"
ENDPOINTS: Final = (
    Endpoint(
        "/v1/chat/completions",
        "CreateChatCompletionRequest",
        "openai.types.chat.completion_create_params:CompletionCreateParamsStreaming",
        {"messages": [{"role": "user", "content": _REPEATED}], "temperature": 0, "max_tokens": 16},
        _CHAT,
        frozenset({"messages", "model"}),
    ),
    Endpoint(
        "/v1/completions",
        "CreateCompletionRequest",
        "openai.types.completion_create_params:CompletionCreateParamsStreaming",
        {"prompt": _REPEATED, "temperature": 0, "max_tokens": 16},
        _COMPLETIONS,
        frozenset({"prompt", "model"}),
    ),
    Endpoint(
        "/v1/embeddings",
        "CreateEmbeddingRequest",
        "openai.types.embedding_create_params:EmbeddingCreateParams",
        {"input": "apple"},
        _EMBEDDINGS,
        frozenset({"input", "model"}),
    ),
    Endpoint(
        "/v1/responses",
        "CreateResponse",
        "openai.types.responses.response_create_params:ResponseCreateParamsStreaming",
        {"input": _REPEATED, "temperature": 0, "max_output_tokens": 16},
        _RESPONSES,
        frozenset({"input", "model"}),
    ),
)
