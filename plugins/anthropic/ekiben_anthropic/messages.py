"""`/v1/messages` as a chat completion, and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben_anthropic.answer import Message
from ekiben_anthropic.conversation import conversation
from ekiben_anthropic.events import MessageEvents
from ekiben_anthropic.fields import Fields
from ekiben_anthropic.tools import tool_fields

_MAX_STOPS: Final = 4


class MessagesTranslation:
    """One request. Raises InvalidRequest and UnsupportedParameter."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        request = Fields(body)
        chat: dict[str, Any] = {"model": request.value("model"), "messages": conversation(request)}
        chat["max_tokens"] = request.whole("max_tokens", lowest=1)
        if chat["max_tokens"] is None:
            raise request.wrong("max_tokens", "is required")
        self._stops = _stops(request)
        chat |= _sampling(request) | tool_fields(request) | shape_fields(request)
        if self._stops:
            chat["stop"] = self._stops
        if request.flag("stream"):
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        if (metadata := request.inner("metadata")) is not None:
            if (user := metadata.text("user_id")) is not None:
                chat["user"] = user
            metadata.finish()
        request.neutral("service_tier", "auto", "standard_only")
        request.finish()
        self._chat = chat

    @property
    def body(self) -> Mapping[str, Any]:
        return self._chat

    def whole(self, answer: Mapping[str, Any]) -> bytes:
        return json.dumps(Message(answer, stops=self._stops).value()).encode()

    def events(self) -> MessageEvents:
        return MessageEvents(stops=self._stops)


def shape_fields(request: Fields) -> dict[str, Any]:
    """What says how the answer is to be made, besides tools: thinking, and its format."""
    request.needless("cache_control")
    request.neutral("speed", "standard")
    return _thinking(request.inner("thinking")) | _output(request.inner("output_config"))


def _sampling(request: Fields) -> dict[str, Any]:
    given = {
        "temperature": request.number("temperature", highest=1),
        "top_p": request.number("top_p", highest=1),
        "top_k": request.whole("top_k", lowest=0),
    }
    return {name: value for name, value in given.items() if value is not None}


def _stops(request: Fields) -> list[str]:
    stops = request.items("stop_sequences")
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise request.wrong("stop_sequences", "must be a list of texts that are not empty")
    if len(stops) > _MAX_STOPS:
        raise request.wrong("stop_sequences", f"may have {_MAX_STOPS} entries at most, not {len(stops)}")
    return stops


def _thinking(thinking: Fields | None) -> dict[str, Any]:
    """Templates of models that can do both have a switch; of others it changes nothing."""
    if thinking is None:
        return {}
    kind = thinking.choice("type", "adaptive", "enabled", "disabled", "between_tools")
    if kind in ("enabled", "between_tools"):
        path = thinking.path("type")
        raise UnsupportedParameter(
            f"{path!r}: how much or when a model thinks cannot be set here: use 'adaptive' or 'disabled'",
            param=path,
        )
    thinking.neutral("display", "summarized")
    thinking.finish()
    return {"chat_template_kwargs": {"enable_thinking": kind == "adaptive"}}


def _output(output: Fields | None) -> dict[str, Any]:
    if output is None:
        return {}
    output.neutral("effort", "high")
    form = output.inner("format")
    output.finish()
    if form is None:
        return {}
    form.choice("type", "json_schema")
    schema = form.required("schema")
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{form.path('schema')!r} must be an object", param=form.path("schema"))
    form.finish()
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": True},
        }
    }
