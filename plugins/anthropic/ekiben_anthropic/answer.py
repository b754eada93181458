"""A chat completion as a message: its blocks, why it ended, and what was used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class Message:
    """One answer that is not streamed."""

    def __init__(self, answer: Mapping[str, Any], *, stops: Sequence[str] = ()) -> None:
        self._answer = answer
        self._stops = stops

    def value(self) -> dict[str, Any]:
        """The object, not yet encoded."""
        choice = self._answer["choices"][0]
        reason, sequence = ending(choice, self._stops)
        opened = opening(self._answer)
        return opened | {
            "content": _content(choice["message"]),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_of(self._answer.get("usage") or {}),
        }


def opening(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The message without content: what is known when it begins."""
    _, _, number = str(answer.get("id", "")).rpartition("-")
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": answer.get("model", ""),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def ending(choice: Mapping[str, Any], stops: Sequence[str]) -> tuple[str, str | None]:
    """Why it ended. Only some engines tell which of the stop sequences it was."""
    reason: str = choice.get("finish_reason") or "stop"
    sequence = choice.get("stop_reason")
    if reason == "stop" and isinstance(sequence, str) and sequence in stops:
        return "stop_sequence", sequence
    return _REASONS.get(reason, "end_turn"), None


def usage_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """What was read from the cache does not count as input here."""
    details = usage.get("prompt_tokens_details") or {}
    cached: int = details.get("cached_tokens") or 0
    return {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - cached),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.get("completion_tokens") or 0,
    }


def thought_of(message: Mapping[str, Any]) -> str:
    """Of a message or a delta; engines have two names for it."""
    return message.get("reasoning_content") or message.get("reasoning") or ""


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thought := thought_of(message):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := message.get("content") or message.get("refusal"):
        blocks.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": _arguments(function["arguments"]),
            }
        )
    return blocks


def _arguments(text: str) -> dict[str, Any]:
    """An object always: a call that was cut off in the middle has none, which its `stop_reason` tells."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
