"""OpenAI's requests as the fields of vLLM's own: what is passed on, what is turned, what is refused.

vLLM ignores fields that it does not know. Here nothing is ignored: what nobody would honour is refused by
name. Knows nothing of vLLM's library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben.contract.text.parameters import OPENAI_SAMPLING, honoured
from ekiben.contract.text.schemas import check_schema
from ekiben.contract.text.tools import plan_tools
from ekiben_vllm.formats import Knowledge

ENGINE: Final = "vLLM"

EXTENSIONS: Final = frozenset(
    {
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "ignore_eos",
        "include_stop_str_in_output",
        "min_p",
        "min_tokens",
        "repetition_detection",
        "repetition_penalty",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "top_k",
        "truncate_prompt_tokens",
    }
)
"""Of vLLM's own, which change what is answered and not how: the shape of answers stays OpenAI's."""

_SHARED: Final = OPENAI_SAMPLING | EXTENSIONS | {"max_tokens", "n", "seed"}
_CHAT: Final = _SHARED | {
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "include_reasoning",
    "logprobs",
    "max_completion_tokens",
    "messages",
    "reasoning_effort",
    "thinking_token_budget",
    "top_logprobs",
}
_COMPLETION: Final = _SHARED | {"echo", "logprobs", "prompt", "suffix"}
_CHAT_TRANSLATED: Final = frozenset(
    {"parallel_tool_calls", "response_format", "structured_outputs", "tool_choice", "tools"}
)
_COMPLETION_TRANSLATED: Final = frozenset({"best_of", "structured_outputs"})

_CONSTRAINTS: Final = ("json", "regex", "choice")
_MAX_CHOICES: Final = 512
_MEDIA: Final = {"image_url": "url", "audio_url": "url", "video_url": "url"}


def chat_fields(body: Mapping[str, Any], *, known: Knowledge) -> dict[str, Any]:
    """Of a `ChatCompletionRequest`, for a model that knows what is `known`.

    Raises InvalidRequest and UnsupportedParameter.
    """
    fields = honoured(body, engine=ENGINE, passed=_CHAT, translated=_CHAT_TRANSLATED)
    if "reasoning_effort" in fields and not known.effort:
        raise UnsupportedParameter(
            "'reasoning_effort' cannot be honoured by this model: leave it out", param="reasoning_effort"
        )
    if "chat_template" in (fields.get("chat_template_kwargs") or {}):
        raise UnsupportedParameter(
            "templates of requests are not used: leave 'chat_template' out",
            param="chat_template_kwargs.chat_template",
        )
    for message, content in _contents(body["messages"]):
        _check_media(message, content)
    if not known.developer:
        fields["messages"] = [_from_system(message) for message in fields["messages"]]
    fields |= _sampled(fields) | _stream_fields(body)
    return fields | _tool_fields(body, known) | _constraint_fields(body)


def completion_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `CompletionRequest`. Raises InvalidRequest and UnsupportedParameter."""
    fields = honoured(body, engine=ENGINE, passed=_COMPLETION, translated=_COMPLETION_TRANSLATED)
    n = fields.get("n", 1)
    if body.get("best_of") not in (None, n):
        raise UnsupportedParameter("'best_of' cannot be honoured by vLLM beyond 'n'", param="best_of")
    return fields | _sampled(fields) | _stream_fields(body) | _constraint_fields(body)


def _sampled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM gives no second answer at temperature 0: to draw from the likeliest token alone is the same."""
    several = fields.get("n", 1) > 1 and fields.get("temperature") == 0
    return {"temperature": 1.0, "top_k": 1} if several else {}


def _stream_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    if not body.get("stream"):
        return {"stream": False}
    # The usage is asked for always, since it tells the end of a stream from one that was broken off.
    return {"stream": True, "stream_options": {"include_usage": True}}


def _tool_fields(body: Mapping[str, Any], known: Knowledge) -> dict[str, Any]:
    """vLLM knows neither allowed tools nor empty lists of them, and drops what a template does not know."""
    plan = plan_tools(body)
    if not plan.fields:
        return {}
    if not plan.must_call and plan.fields["tool_choice"] != "none" and not known.tools:
        raise UnsupportedParameter(
            "'tools' cannot be honoured by this model, whose template does not know them: "
            "demand a call with 'tool_choice', or give the spec another template",
            param="tools",
        )
    choice = body.get("tool_choice")
    named = isinstance(choice, Mapping) and choice["type"] == "function"
    tools = body["tools"] if named else plan.fields["tools"]
    fields: dict[str, Any] = {"tools": [_strict(tool) for tool in tools] if plan.must_call else tools}
    if named:
        fields["tool_choice"] = choice
    else:
        fields["tool_choice"] = "required" if plan.must_call else plan.fields["tool_choice"]
    if body.get("parallel_tool_calls") is not None:
        fields["parallel_tool_calls"] = body["parallel_tool_calls"]
    return fields


def _strict(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A call that must be made follows its schema, unless the client says otherwise."""
    return {**tool, "function": {"strict": True} | tool["function"]}


def _constraint_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if (wanted := body.get("response_format")) is not None:
        if wanted["type"] == "json_schema":
            check_schema(wanted["json_schema"].get("schema"), "response_format.json_schema.schema")
        fields["response_format"] = wanted
    if (given := body.get("structured_outputs")) is not None:
        _check_constraint(given)
        fields["structured_outputs"] = given
    return fields


def _check_constraint(given: Any) -> None:
    """One of `json`, `regex` and `choice`, of bounded size: grammars can keep the engine busy for minutes."""
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in _CONSTRAINTS:
        raise InvalidRequest(
            f"'structured_outputs' takes one of {', '.join(_CONSTRAINTS)}", param="structured_outputs"
        )
    kind, value = next(iter(given.items()))
    param = f"structured_outputs.{kind}"
    if kind == "json":
        check_schema(value, param)
    elif kind == "regex" and isinstance(value, str):
        check_schema({"pattern": value}, param)
    elif kind == "choice" and isinstance(value, list) and 0 < len(value) <= _MAX_CHOICES:
        return
    else:
        raise InvalidRequest(f"{param!r} is not what it should be, or too large", param=param)


def _contents(messages: Any) -> Iterator[tuple[str, Any]]:
    """The parts of all messages, with the names of their places."""
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for place, part in enumerate(content):
                yield f"messages.{index}.content.{place}", part


def _from_system(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _check_media(place: str, part: Any) -> None:
    """Only what the request carries itself: nobody makes this machine fetch from addresses."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "file":
        raise UnsupportedParameter("parts of type 'file' cannot be honoured by vLLM", param=place)
    if kind not in _MEDIA:
        return
    holder = part.get(kind)
    url = holder.get("url") if isinstance(holder, Mapping) else holder
    if not isinstance(url, str) or not url.startswith("data:"):
        raise InvalidRequest(
            f"{kind!r} must be a data: URL: addresses are not fetched", param=f"{place}.{kind}.url"
        )
