"""Messages of a conversation, as llama.cpp takes them. What the model cannot read is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben_llama_cpp.media import check_picture, check_sound

_FIELDS: Final = ("role", "name", "tool_calls", "tool_call_id", "reasoning_content")
_MEDIA: Final = ("image_url", "input_audio")


class MessageReader:
    """For one model."""

    def __init__(self, *, sees: bool = False, hears: bool = False) -> None:
        self._reads = {"text", "refusal"}
        if sees:
            self._reads.add("image_url")
        if hears:
            self._reads.add("input_audio")

    def read(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Raises InvalidRequest and UnsupportedParameter."""
        return [self._message(message, f"messages.{index}") for index, message in enumerate(messages)]

    @staticmethod
    def media_in(messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether any of these, as `read` gave them, holds more than text."""
        return any(
            part["type"] in _MEDIA
            for message in messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
        )

    def _message(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        if message["role"] == "function":
            raise UnsupportedParameter(
                "the role 'function' is not known here: use 'tool'", param=f"{where}.role"
            )
        for name in ("audio", "function_call"):
            if message.get(name) is not None:
                raise UnsupportedParameter(
                    f"{name!r} cannot be honoured by llama.cpp", param=f"{where}.{name}"
                )
        kept = {name: message[name] for name in _FIELDS if message.get(name) is not None}
        content = message.get("content")
        if content is None and message.get("refusal") is not None:
            content = message["refusal"]
        if isinstance(content, list):
            content = [self._part(part, f"{where}.content.{index}") for index, part in enumerate(content)]
        kept["content"] = content
        for number, call in enumerate(message.get("tool_calls") or ()):
            _check_call(call, f"{where}.tool_calls.{number}")
        return kept

    def _part(self, part: Mapping[str, Any], where: str) -> dict[str, Any]:
        kind = part["type"]
        if kind not in self._reads:
            known = " and ".join(sorted(self._reads - {"refusal"}))
            raise UnsupportedParameter(f"this model reads {known} only, not {kind!r}", param=f"{where}.type")
        if kind == "image_url":
            return {"type": kind, kind: {"url": check_picture(part[kind], f"{where}.{kind}")}}
        if kind == "input_audio":
            check_sound(part[kind], f"{where}.{kind}")
            return {"type": kind, kind: dict(part[kind])}
        return {"type": "text", "text": part[kind]}


def _check_call(call: Mapping[str, Any], where: str) -> None:
    if call["type"] != "function":
        raise UnsupportedParameter(
            f"calls of type {call['type']!r} cannot be honoured: use functions", param=f"{where}.type"
        )
    try:
        arguments = json.loads(call["function"]["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            "'arguments' must be the text of a JSON object", param=f"{where}.function.arguments"
        )
