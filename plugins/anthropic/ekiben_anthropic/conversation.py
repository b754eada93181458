"""System prompt and messages, as OpenAI's messages."""

from __future__ import annotations

import json
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben_anthropic.fields import Fields

_PICTURES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_TYPES: Final = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking"),
    "system": ("text",),
    "tool_result": ("text",),
}
"""The blocks that can be told in OpenAI's words, by what they are in."""


def conversation(request: Fields) -> list[dict[str, Any]]:
    """All messages. Raises InvalidRequest and UnsupportedParameter."""
    messages: list[dict[str, Any]] = []
    if (system := request.value("system")) is not None:
        messages.append({"role": "system", "content": _plain_text(system, request.path("system"), "system")})
    given = request.objects("messages")
    if not given:
        raise request.wrong("messages", "is required: send at least one")
    for message in given:
        messages += _messages(message)
    if messages[-1]["role"] == "assistant":
        raise InvalidRequest(
            "the conversation must end with a message of the user: answers cannot be begun for the model",
            param="messages",
        )
    return messages


def _messages(message: Fields) -> list[dict[str, Any]]:
    role = message.choice("role", "user", "assistant", "system")
    content = message.required("content")
    where = message.path("content")
    message.finish()
    if role == "user":
        return _of_user(content, where)
    if role == "assistant":
        return [_of_assistant(content, where)]
    return [{"role": "system", "content": _plain_text(content, where, "system")}]


def _blocks(content: object, where: str, role: str) -> list[tuple[str, Fields]]:
    """Blocks with their types. A text alone is one of them."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise InvalidRequest(f"{where!r} must be a string or a list of blocks", param=where)
    return [
        (_type_of(block, role), block)
        for block in (Fields(value, f"{where}.{index}") for index, value in enumerate(content))
    ]


def _type_of(block: Fields, role: str) -> str:
    kind = block.required_text("type")
    if kind not in _TYPES[role]:
        path = block.path("type")
        known = ", ".join(_TYPES[role])
        raise UnsupportedParameter(f"{path!r} can be {known} here, not {kind[:64]!r}", param=path)
    block.needless("cache_control")
    return kind


def _of_user(content: object, where: str) -> list[dict[str, Any]]:
    """The results of tools are messages of their own."""
    messages: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    blocks = _blocks(content, where, "user")
    if not blocks:
        raise InvalidRequest(f"{where!r} is empty", param=where)
    for kind, block in blocks:
        if kind == "tool_result":
            messages += _user_message(parts)
            parts = []
            messages.append(_tool_result(block))
        else:
            parts.append(_text_part(block) if kind == "text" else _picture_part(block))
    return messages + _user_message(parts)


def _user_message(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not parts:
        return []
    alone = len(parts) == 1 and parts[0]["type"] == "text"
    return [{"role": "user", "content": parts[0]["text"] if alone else parts}]


def _of_assistant(content: object, where: str) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for kind, block in _blocks(content, where, "assistant"):
        if kind == "text":
            texts.append(_text(block))
        elif kind == "thinking":
            thoughts.append(_thought(block))
        else:
            calls.append(_call(block))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _plain_text(content: object, where: str, role: str) -> str:
    return "\n".join(_text(block) for _, block in _blocks(content, where, role))


def _text(block: Fields) -> str:
    text = block.required_text("text")
    block.neutral("citations", [])
    block.finish()
    return text


def _text_part(block: Fields) -> dict[str, Any]:
    return {"type": "text", "text": _text(block)}


def _picture_part(block: Fields) -> dict[str, Any]:
    source = Fields(block.required("source"), block.path("source"))
    block.finish()
    if (kind := source.required_text("type")) != "base64":
        path = source.path("type")
        raise UnsupportedParameter(
            f"{path!r} must be 'base64', not {kind[:64]!r}: nothing is fetched", param=path
        )
    media_type = source.choice("media_type", *_PICTURES)
    data = source.required_text("data")
    source.finish()
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _tool_result(block: Fields) -> dict[str, Any]:
    """OpenAI's has no field for errors, so the text says it."""
    call = block.required_text("tool_use_id")
    content = block.value("content")
    text = "" if content is None else _plain_text(content, block.path("content"), "tool_result")
    if block.flag("is_error"):
        text = f"Error: {text}"
    block.finish()
    return {"role": "tool", "tool_call_id": call, "content": text}


def _call(block: Fields) -> dict[str, Any]:
    call, name, arguments = block.required_text("id"), block.required_text("name"), block.required("input")
    if not isinstance(arguments, dict):
        raise block.wrong("input", "must be an object")
    block.neutral("caller", {"type": "direct"})
    block.finish()
    return {
        "id": call,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }


def _thought(block: Fields) -> str:
    thought = block.required_text("thinking")
    block.needless("signature")
    block.finish()
    return thought
