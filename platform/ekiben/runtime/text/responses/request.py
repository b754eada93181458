"""A request for a response as a request for a chat: every published field honoured, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.errors import EkibenError, InvalidRequest, UnsupportedParameter
from ekiben.runtime.text import bounds, wire
from ekiben.runtime.text.responses.items import Messages, read_input
from ekiben.runtime.text.responses.tools import chat_choice, chat_tools, custom_names
from ekiben.runtime.text.wire import Surface

LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED: Final = "reasoning.encrypted_content"

_NEEDLESS: Final = frozenset(
    {
        "background",
        "include",
        "input",
        "instructions",
        "max_tool_calls",  # it bounds hosted tools, and there are none
        "metadata",
        "model",
        "previous_response_id",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "stream",
        "truncation",
        "user",
    }
)
"""Dealt with elsewhere, or without a meaning for an engine."""
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "background_options": ({}, {"completion_window": "soonest"}),
    "context_management": ([],),
    "image": ({}, {"context_compression": "auto"}, {"context_compression": "disabled"}),
    "service_tier": ("auto", "default"),
}
"""Published fields that can only be accepted where they ask for nothing."""
_TRANSLATED: Final = frozenset(
    {
        "max_output_tokens",
        "parallel_tool_calls",
        "prompt_cache_options",
        "reasoning",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
_NEVER: Final = frozenset({"access_programs", "conversation", "moderation", "prompt"})
_OF_CHAT: Final = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "n",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "verbosity",
    }
)
_EXTRA: Final = frozenset({"frequency_penalty", "logit_bias", "presence_penalty", "seed", "stop"})
"""Of a chat, not of a response: engines honour them all the same. Others of a chat would be misread."""
_PARAMS: Final = (
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("logprobs", "include"),
)
_TOOL: Final = re.compile(r"(tools\.\d+)\.function\.")
_MESSAGE: Final = re.compile(r"messages\.(\d+)(.*)")
_ITEM: Final = re.compile(r"input\.(\d+)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Translation:
    """The request in the words of a chat, and what its answer must know of it."""

    chat: dict[str, Any]
    messages: Messages
    custom_tools: frozenset[str]
    with_logprobs: bool
    with_encrypted: bool
    obfuscated: bool

    def in_own_words(self, error: EkibenError) -> EkibenError:
        """An error about the chat as one about the request that the client sent."""
        if error.param is not None:
            told = error.param
            error.param = self._param(told)
            error.message = error.message.replace(f"'{told}'", f"'{error.param}'")
        return error

    def _param(self, param: str) -> str:
        if match := _MESSAGE.fullmatch(param):
            index = int(match[1])
            return self.messages.sources[index] + match[2] if index < len(self.messages.sources) else "input"
        if param == "messages":
            return "input"
        for chat, own in _PARAMS:
            if param == chat or param.startswith(f"{chat}."):
                return own + param[len(chat) :]
        return _TOOL.sub(r"\1.", param)


def counted_from_own(error: EkibenError, context: int) -> EkibenError:
    """With the number of an item as the client counts, who knows of its own items only."""
    match = _ITEM.fullmatch(error.param or "")
    if match is None or not context:
        return error
    index = int(match[1]) - context
    param = f"input.{index}{match[2]}" if index >= 0 else "previous_response_id"
    error.message = error.message.replace(f"'{error.param}'", f"'{param}'")
    error.param = param
    return error


def translate(body: Mapping[str, Any]) -> Translation:
    """For a body whose types are right. Raises InvalidRequest and UnsupportedParameter."""
    given = {name: value for name, value in body.items() if value is not None}
    if "input" not in given:
        raise InvalidRequest("'input' is required: send a text, or items", param="input")
    tools = given.get("tools") or []
    messages = read_input(given["input"], instructions=given.get("instructions"))
    chat: dict[str, Any] = {"model": given["model"], "messages": messages.messages}
    if tools:
        chat["tools"] = chat_tools(tools)
        if "parallel_tool_calls" in given:
            chat["parallel_tool_calls"] = given["parallel_tool_calls"]
    if "tool_choice" in given:
        chat["tool_choice"] = chat_choice(given["tool_choice"])
    chat |= _text(given.get("text") or {}) | _reasoning(given.get("reasoning") or {})
    chat |= _rest(given) | _streamed(given)
    translation = Translation(
        chat=chat,
        messages=messages,
        custom_tools=custom_names(tools),
        with_logprobs="logprobs" in chat,
        with_encrypted=ENCRYPTED in given.get("include", ()),
        obfuscated=(given.get("stream_options") or {}).get("include_obfuscation") is True,
    )
    _check(translation)
    return translation


def _check(translation: Translation) -> None:
    """As a chat request is checked: the ranges are the same, and further fields come from there."""
    chat = translation.chat
    if not chat["messages"]:
        raise InvalidRequest("'input' is empty: send at least one item", param="input")
    try:
        wire.validate(Surface.CHAT, chat)
        bounds.check_chat(chat)
    except EkibenError as error:
        raise translation.in_own_words(error) from None


def _rest(given: Mapping[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    for name, value in given.items():
        if name in _TRANSLATED or name in _NEEDLESS or value in _NEUTRAL.get(name, ()):
            continue
        if name in _NEVER or name in _NEUTRAL:
            raise UnsupportedParameter(f"{name!r} cannot be honoured here: leave it out", param=name)
        if name in _OF_CHAT and name not in _EXTRA:
            raise InvalidRequest(f"{name!r} is no field of a response", param=name)
        chat[name] = value
    if (limit := given.get("max_output_tokens")) is not None:
        chat["max_completion_tokens"] = limit
    bounds.check_metadata(given.get("metadata") or {})
    top = given.get("top_logprobs") or 0
    if top or LOGPROBS in given.get("include", ()):
        chat |= {"logprobs": True, "top_logprobs": top}
    _check_caching(given.get("prompt_cache_options") or {})
    return chat


def _streamed(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("stream_options") is not None and not given.get("stream"):
        raise InvalidRequest("'stream_options' needs 'stream' to be true", param="stream_options")
    return {"stream": True, "stream_options": {"include_usage": True}} if given.get("stream") else {}


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if text.get("verbosity") not in (None, "medium"):
        chat["verbosity"] = text["verbosity"]
    wanted = text.get("format") or {"type": "text"}
    if wanted["type"] == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif wanted["type"] == "json_schema":
        schema = {name: value for name, value in wanted.items() if name != "type" and value is not None}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _reasoning(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    for name, neutral in (("summary", "auto"), ("generate_summary", "auto"), ("context", "auto")):
        if reasoning.get(name) not in (None, neutral):
            raise UnsupportedParameter(
                f"'reasoning.{name}' can only be {neutral} here", param=f"reasoning.{name}"
            )
    if reasoning.get("mode") not in (None, "standard"):
        raise UnsupportedParameter("'reasoning.mode' can only be standard here", param="reasoning.mode")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _check_caching(options: Mapping[str, Any]) -> None:
    """Engines keep beginnings of prompts as they can; what asks for more than that is refused."""
    for name in ("prewarm", "comparison_response_id"):
        if options.get(name):
            param = f"prompt_cache_options.{name}"
            raise UnsupportedParameter(f"{param!r} cannot be honoured here: leave it out", param=param)
