"""What the official SDKs are made to do: one table for all of them and for all engines.

The parts that need a model to behave force it: a tool that must be called, a schema that must be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MODEL: Final = "{model}"
"""Replaced by the name of the engine's model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an SDK gave back, as JSON."""

    whole: Any = None
    events: list[Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    method: str
    arguments: list[Any]
    check: Callable[[Outcome], bool]
    client: str = "openai"

    def asked(self, model: str) -> dict[str, Any]:
        """As a runner takes it."""
        given = json.loads(json.dumps(self.arguments).replace(MODEL, model))
        return {"client": self.client, "method": self.method, "arguments": given}


_SAY: Final = [{"role": "user", "content": "Name three fruits."}]
_SCHEMA: Final = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_FUNCTION: Final = {"name": "answer", "description": "an answer", "parameters": _SCHEMA}
_FORCED: Final = {
    "tools": [{"type": "function", "function": _FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "answer"}},
    "max_tokens": 64,  # of an engine whose calls have their model's marks around them
}
_FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}}
_WRONG: Final = {"temperature": 5}


def _chat(**more: Any) -> list[Any]:
    return [{"model": MODEL, "messages": _SAY, "max_tokens": 24, "temperature": 0, **more}]


def _complete(**more: Any) -> list[Any]:
    return [{"model": MODEL, "prompt": "One, two, three,", "max_tokens": 8, "temperature": 0, **more}]


def _respond(**more: Any) -> list[Any]:
    return [
        {"model": MODEL, "input": "Name three fruits.", "max_output_tokens": 32, "temperature": 0, **more}
    ]


def _message(**more: Any) -> list[Any]:
    return [{"model": MODEL, "messages": _SAY, "max_tokens": 32, "temperature": 0, **more}]


def _text(outcome: Outcome) -> str:
    """Of chats and completions, first choice."""
    if outcome.whole is not None:
        choice = outcome.whole["choices"][0]
        return str(choice.get("text") or (choice.get("message") or {}).get("content") or "")
    choices = [c for e in outcome.events or () for c in e["choices"] if c["index"] == 0]
    return "".join(c.get("text") or (c.get("delta") or {}).get("content") or "" for c in choices)


def _call(outcome: Outcome) -> Any:
    """The arguments of the forced call of a chat."""
    if outcome.whole is not None:
        (call,) = outcome.whole["choices"][0]["message"]["tool_calls"]
        named, arguments = call["function"]["name"], call["function"]["arguments"]
    else:
        parts = [
            p for e in outcome.events or () for c in e["choices"] for p in c["delta"].get("tool_calls") or ()
        ]
        named = parts[0]["function"]["name"]
        arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    return named == "answer" and json.loads(arguments)


def _is_ok(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"ok"} and isinstance(value["ok"], bool)


def _fails(kind: str, status: int, **fields: Any) -> Callable[[Outcome], bool]:
    def check(outcome: Outcome) -> bool:
        error = outcome.error or {}
        body = error.get("body") or {}
        body = body.get("error", body)
        told = {name: body.get(name) for name in fields}
        return (error.get("kind"), error.get("status"), told) == (kind, status, fields)

    return check


def _usage_comes_last(outcome: Outcome) -> bool:
    events = outcome.events or [{}]
    usages = [event.get("usage") for event in events]
    return bool((usages[-1] or {}).get("total_tokens")) and not any(usages[:-1])


def _output(outcome: Outcome) -> Any:
    """Of a response, whole or at its stream's end."""
    if outcome.whole is not None:
        return outcome.whole["output"]
    return (outcome.events or [])[-1]["response"]["output"]


def _response_text(outcome: Outcome) -> str:
    return "".join(part["text"] for item in _output(outcome) for part in item["content"])


def _deltas_agree(outcome: Outcome) -> bool:
    deltas = (e["delta"] for e in outcome.events or () if e["type"] == "response.output_text.delta")
    return "".join(deltas) == _response_text(outcome) != ""


def _message_text(outcome: Outcome) -> str:
    if outcome.whole is not None:
        return "".join(block["text"] for block in outcome.whole["content"])
    deltas = (e["delta"] for e in outcome.events or () if e["type"] == "content_block_delta")
    return "".join(delta["text"] for delta in deltas)


def _message_input(outcome: Outcome) -> Any:
    if outcome.whole is not None:
        return outcome.whole["content"][-1]["input"]
    deltas = (e["delta"] for e in outcome.events or () if e["type"] == "content_block_delta")
    return json.loads("".join(delta.get("partial_json", "") for delta in deltas))


_STREAM: Final = {"stream": True}
_WITH_USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}
_RESPONSE_TOOLS: Final = {
    "tools": [{"type": "function", "strict": True, **_FUNCTION}],
    "tool_choice": {"type": "function", "name": "answer"},
    "max_output_tokens": 64,
}
_RESPONSE_FORMAT: Final = {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}}
_MESSAGE_TOOLS: Final = {
    "tools": [{"name": "answer", "description": "an answer", "input_schema": _SCHEMA}],
    "tool_choice": {"type": "tool", "name": "answer"},
    "max_tokens": 64,
}
_CHAT: Final = "chat.completions.create"
_COMPLETE: Final = "completions.create"
_RESPOND: Final = "responses.create"
_MESSAGE: Final = "messages.create"

SCENARIOS: Final = (
    Scenario("models", "models.list", [], lambda o: any("fruit" not in m["id"] for m in o.whole["data"])),
    Scenario("model", "models.retrieve", [MODEL], lambda o: o.whole["object"] == "model"),
    Scenario("chat", _CHAT, _chat(), lambda o: bool(_text(o))),
    Scenario("chat, streamed", _CHAT, _chat(**_STREAM), lambda o: bool(_text(o))),
    Scenario("chat, usage", _CHAT, _chat(**_WITH_USAGE), _usage_comes_last),
    Scenario("chat, call", _CHAT, _chat(**_FORCED), lambda o: _is_ok(_call(o))),
    Scenario("chat, call, streamed", _CHAT, _chat(**_FORCED, **_STREAM), lambda o: _is_ok(_call(o))),
    Scenario("chat, schema", _CHAT, _chat(response_format=_FORMAT), lambda o: _is_ok(json.loads(_text(o)))),
    Scenario(
        "chat, schema, streamed",
        _CHAT,
        _chat(response_format=_FORMAT, **_STREAM),
        lambda o: _is_ok(json.loads(_text(o))),
    ),
    Scenario("chat, two", _CHAT, _chat(n=2), lambda o: [c["index"] for c in o.whole["choices"]] == [0, 1]),
    Scenario(
        "chat, logprobs",
        _CHAT,
        _chat(logprobs=True, top_logprobs=2),
        lambda o: "".join(t["token"] for t in o.whole["choices"][0]["logprobs"]["content"]).startswith(
            _text(o)[:4]
        ),
    ),
    Scenario("chat, refused", _CHAT, _chat(**_WRONG), _fails("BadRequestError", 400, param="temperature")),
    Scenario(
        "chat, stream refused",
        _CHAT,
        _chat(**_WRONG, **_STREAM),
        _fails("BadRequestError", 400, param="temperature"),
    ),
    Scenario(
        "chat, nobody",
        _CHAT,
        _chat(model="nobody"),
        _fails("NotFoundError", 404, code="model_not_found"),
    ),
    Scenario("completion", _COMPLETE, _complete(), lambda o: bool(_text(o))),
    Scenario("completion, streamed", _COMPLETE, _complete(**_STREAM), lambda o: bool(_text(o))),
    Scenario("completion, usage", _COMPLETE, _complete(**_WITH_USAGE), _usage_comes_last),
    Scenario("completion, echo", _COMPLETE, _complete(echo=True), lambda o: _text(o).startswith("One, two,")),
    Scenario(
        "completion, list",
        _COMPLETE,
        _complete(prompt=["One,", "Two,"]),
        lambda o: [c["index"] for c in o.whole["choices"]] == [0, 1],
    ),
    Scenario("response", _RESPOND, _respond(), lambda o: bool(_response_text(o))),
    Scenario("response, streamed", _RESPOND, _respond(**_STREAM), _deltas_agree),
    Scenario(
        "response, schema",
        _RESPOND,
        _respond(text=_RESPONSE_FORMAT),
        lambda o: _is_ok(json.loads(_response_text(o))),
    ),
    Scenario(
        "response, call",
        _RESPOND,
        _respond(**_RESPONSE_TOOLS),
        lambda o: _is_ok(json.loads(_output(o)[-1]["arguments"])),
    ),
    Scenario(
        "response, call, streamed",
        _RESPOND,
        _respond(**_RESPONSE_TOOLS, **_STREAM),
        lambda o: _is_ok(json.loads(_output(o)[-1]["arguments"])),
    ),
    Scenario("message", _MESSAGE, _message(), lambda o: bool(_message_text(o)), client="anthropic"),
    Scenario(
        "message, streamed",
        _MESSAGE,
        _message(**_STREAM),
        lambda o: bool(_message_text(o)) and o.events is not None and o.events[-1]["type"] == "message_stop",
        client="anthropic",
    ),
    Scenario(
        "message, call",
        _MESSAGE,
        _message(**_MESSAGE_TOOLS),
        lambda o: _is_ok(_message_input(o)),
        client="anthropic",
    ),
    Scenario(
        "message, call, streamed",
        _MESSAGE,
        _message(**_MESSAGE_TOOLS, **_STREAM),
        lambda o: _is_ok(_message_input(o)),
        client="anthropic",
    ),
    Scenario(
        "message, tokens",
        "messages.countTokens",
        [{"model": MODEL, "messages": _SAY}],
        lambda o: o.whole["input_tokens"] > 5,
        client="anthropic",
    ),
    Scenario(
        "message, nobody",
        _MESSAGE,
        _message(model="nobody"),
        _fails("NotFoundError", 404, type="not_found_error"),
        client="anthropic",
    ),
)
