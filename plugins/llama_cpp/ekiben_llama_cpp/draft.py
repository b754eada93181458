"""A whole answer, put together from its stream.

llama.cpp looks whether anybody still waits for an answer each time it has something to say of it, and
otherwise once a second. Streams say something after every step, so whole answers are streamed as well.
"""

from __future__ import annotations

import json
from typing import Any, Protocol


class Draft(Protocol):
    """An answer in the making."""

    def add(self, raw: bytes) -> None:
        """The next object of its stream."""

    def answer(self) -> dict[str, Any]:
        """What llama.cpp would have answered in one piece."""


class ChatDraft:
    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._logprobs: list[Any] = []
        self._calls: list[dict[str, Any]] = []
        self._reason: str | None = None

    def add(self, raw: bytes) -> None:
        chunk = json.loads(raw)
        self._whole |= chunk
        for choice in chunk["choices"]:
            self._reason = choice["finish_reason"] or self._reason
            self._logprobs += (choice.get("logprobs") or {}).get("content") or []
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    self._add_calls(value)
                elif name != "role" and value is not None:
                    self._message[name] = (self._message.get(name) or "") + value

    def answer(self) -> dict[str, Any]:
        if self._calls:
            self._message["tool_calls"] = self._calls
        choice = {"index": 0, "message": self._message, "finish_reason": self._reason}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return self._whole | {"object": "chat.completion", "choices": [choice]}

    def _add_calls(self, deltas: list[dict[str, Any]]) -> None:
        for delta in deltas:
            if delta["index"] == len(self._calls):
                function = {"name": delta["function"]["name"], "arguments": ""}
                self._calls.append({"id": delta["id"], "type": "function", "function": function})
            self._calls[delta["index"]]["function"]["arguments"] += delta["function"].get("arguments") or ""


class CompletionDraft:
    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}
        self._text = ""
        self._logprobs: list[Any] = []
        self._reason: str | None = None

    def add(self, raw: bytes) -> None:
        chunk = json.loads(raw)
        self._whole |= chunk
        for choice in chunk["choices"]:
            self._text += choice["text"]
            self._reason = choice["finish_reason"] or self._reason
            self._logprobs += (choice.get("logprobs") or {}).get("content") or []

    def answer(self) -> dict[str, Any]:
        choice = {
            "index": 0,
            "text": self._text,
            "logprobs": {"content": self._logprobs},
            "finish_reason": self._reason,
        }
        return self._whole | {"choices": [choice]}
