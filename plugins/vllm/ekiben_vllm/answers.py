"""vLLM's objects as OpenAI's: what is not in OpenAI's documents is left away.

Decoding into these types drops the fields that they do not have. Of the extensions one is kept, the
reasoning, under the name that clients know.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType


class Usage(Struct, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, Any] | UnsetType | None = UNSET
    completion_tokens_details: dict[str, Any] | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        details = self.prompt_tokens_details
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        self.prompt_tokens_details = {"cached_tokens": cached or 0}
        if self.completion_tokens_details is None:
            self.completion_tokens_details = UNSET


class FunctionCall(Struct, omit_defaults=True):
    name: str | UnsetType | None = UNSET
    arguments: str | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.arguments is UNSET or self.arguments is None:
            self.arguments = UNSET if self.name is UNSET else ""


class ToolCall(Struct, omit_defaults=True):
    """Whole, or a part of it."""

    index: int | UnsetType = UNSET
    id: str | UnsetType | None = UNSET
    type: str | UnsetType | None = UNSET
    function: FunctionCall | UnsetType | None = UNSET


class Message(Struct, omit_defaults=True):
    """Of an answer, or a part of it."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.reasoning, str):
            self.reasoning_content = self.reasoning
        self.reasoning = UNSET


class ChatLogprobs(Struct):
    content: msgspec.Raw
    refusal: None = None


class ChatChoice(Struct):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: str

    def __post_init__(self) -> None:
        message = self.message
        if message.tool_calls:
            message.content = message.content or None
            self.finish_reason = _of_calls(self.finish_reason)
        message.refusal = None


def _of_calls(reason: str) -> str:
    """vLLM says `stop` after a call of a function that was named."""
    return "tool_calls" if reason == "stop" else reason


class ChatAnswer(Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | UnsetType | None = UNSET


class ChunkChoice(Struct):
    index: int
    delta: Message
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None

    def __post_init__(self) -> None:
        self.delta.refusal = UNSET
        if self.delta.content is None:
            self.delta.content = UNSET


class ChatChunk(Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET


class TextLogprobs(Struct):
    text_offset: msgspec.Raw
    token_logprobs: msgspec.Raw
    tokens: msgspec.Raw
    top_logprobs: msgspec.Raw


class TextChoice(Struct):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


class TextAnswer(Struct, omit_defaults=True):
    """A completion, or a part of it: they have one shape."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET


Part: TypeAlias = ChatChunk | TextAnswer

_ENCODER = msgspec.json.Encoder()
_CHAT_ANSWER = msgspec.json.Decoder(ChatAnswer)
_TEXT_ANSWER = msgspec.json.Decoder(TextAnswer)
PART_DECODER: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatChunk),
    "text": _TEXT_ANSWER,
}


def chat_answer(raw: bytes | str, *, model: str) -> bytes:
    """A whole `chat.completion`."""
    answer = _CHAT_ANSWER.decode(raw)
    answer.model = model
    return _ENCODER.encode(answer)


def text_answer(raw: bytes | str, *, model: str) -> bytes:
    """A whole `text_completion`."""
    answer = _TEXT_ANSWER.decode(raw)
    answer.model = model
    return _ENCODER.encode(answer)


class Stream:
    """The parts of one streamed answer. vLLM is always asked for the usage; clients may not be."""

    def __init__(self, kind: str, *, model: str, with_usage: bool) -> None:
        self._decoder = PART_DECODER[kind]
        self._model = model
        self._with_usage = with_usage
        self._calling: set[int] = set()
        """The answers, by index, that have begun to call."""
        self.ended = False
        """Whether the usage has come, which is last."""

    def write(self, raw: bytes | str) -> bytes | None:
        """The object for the client, if there is one."""
        part: Part = self._decoder.decode(raw)
        part.model = self._model
        if not part.choices:
            self.ended = True
            return _ENCODER.encode(part) if self._with_usage else None
        if isinstance(part, ChatChunk):
            self._note_calls(part.choices)
        part.usage = None if self._with_usage else UNSET
        return _ENCODER.encode(part)

    def _note_calls(self, choices: list[ChunkChoice]) -> None:
        for choice in choices:
            if choice.delta.tool_calls:
                self._calling.add(choice.index)
            if choice.finish_reason is not None and choice.index in self._calling:
                choice.finish_reason = _of_calls(choice.finish_reason)
