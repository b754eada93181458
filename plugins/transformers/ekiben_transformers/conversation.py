"""The messages of a request as chat templates know them: roles they have, and contents that are texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter

_TOOLS: Final = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""In the form that most models were trained on (Hermes)."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As templates take them. Raises UnsupportedParameter for what is no text."""
    return [_plain(message, index) for index, message in enumerate(messages)]


def _plain(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    role = message["role"]
    if role == "function" or message.get("function_call"):
        raise UnsupportedParameter(
            "the older 'function' messages cannot be honoured: use 'tools'", param=f"messages.{index}"
        )
    if message.get("audio"):
        raise UnsupportedParameter("this model takes texts only", param=f"messages.{index}.audio")
    content = _text(message.get("content"), index)
    if role == "assistant" and not content and message.get("refusal"):
        content = message["refusal"]
    plain: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if message.get(name):
            plain[name] = message[name]
    if message.get("tool_calls"):
        plain["tool_calls"] = [
            _call(call, f"messages.{index}.tool_calls.{at}") for at, call in enumerate(message["tool_calls"])
        ]
    return plain


def _text(content: Any, index: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for at, part in enumerate(content):
        if part["type"] not in ("text", "refusal"):
            raise UnsupportedParameter(
                f"parts of type {part['type']!r} cannot be honoured: this model takes texts only",
                param=f"messages.{index}.content.{at}",
            )
        texts.append(part[part["type"]])
    return "\n".join(texts)


def _call(call: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Templates want arguments as an object, the API has them as a text."""
    if call.get("type") != "function":
        raise UnsupportedParameter("only calls of functions can be honoured", param=param)
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        raise InvalidRequest("the arguments of the call are no JSON", param=param) from None
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def with_tools_told(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For templates that know no tools: described in the system message, and calls as texts."""
    turns = [_told(message) for message in messages]
    if not tools:
        return turns
    described = _TOOLS.format(tools="\n".join(json.dumps(tool) for tool in tools))
    if turns and turns[0]["role"] == "system":
        described = f"{turns[0]['content']}\n\n{described}"
        turns = turns[1:]
    return [{"role": "system", "content": described}, *turns]


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": text}
    if not message.get("tool_calls"):
        return dict(message)
    calls = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in message["tool_calls"]]
    return {"role": "assistant", "content": "\n".join(filter(None, [message["content"], *calls]))}
