"""A chat completion: OpenAI's request as requests to llama.cpp, and its answers as OpenAI's.

`n` answers are `n` requests, since llama.cpp counts the tokens of one of its choices only and can make no
more of them than it has slots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from ekiben.contract import InvalidRequest, TextRequest, UnsupportedParameter
from ekiben.contract.text.schemas import check_schema
from ekiben.contract.text.tools import CallsReader, gathered, plan_tools
from ekiben.contract.text.usage import total_usage
from ekiben_llama_cpp.draft import ChatDraft, Draft
from ekiben_llama_cpp.parameters import sampling, seeds
from ekiben_llama_cpp.voice import Voice

_TRANSLATED: Final = frozenset(
    {
        "chat_template_kwargs",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "n",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "seed",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
_NO_CHOICES: Final = b'{"choices":[]'


class ChatJob:
    """One request, from translation to its last chunk. Raises at once what cannot be honoured."""

    path: Final = "/v1/chat/completions"

    def __init__(self, request: TextRequest, voice: Voice) -> None:
        body = request.body
        self._model = request.model
        self._id = f"chatcmpl-{uuid4().hex}"
        self._top_logprobs: int = body.get("top_logprobs") or 0
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        plan = plan_tools(body)
        count = body.get("n") or 1
        self._readers = [plan.reader() for _ in range(count)]
        self._begun = [False] * count
        self._usages: list[tuple[int, Mapping[str, Any]]] = []
        self._created = 0
        self._verbatim = (
            count == 1
            and not plan.must_call
            and not body.get("logprobs")
            and request.model == voice.loaded_as
        )
        shared = _translate(body, voice) | {**plan.fields} | voice.adapted(request.adapter)
        self.asks = [shared | seed for seed in seeds(body, count)]

    def draft(self) -> Draft:
        """For an answer that is wanted whole."""
        return ChatDraft()

    def merge(self, answers: Sequence[dict[str, Any]]) -> bytes:
        """The `chat.completion` of all answers."""
        whole = {name: value for name, value in answers[0].items() if name in _KEPT}
        whole |= {
            "id": self._id,
            "model": self._model,
            "choices": [self._choice(index, answer["choices"][0]) for index, answer in enumerate(answers)],
            "usage": total_usage((0, answer["usage"]) for answer in answers),
        }
        return json.dumps(whole).encode()

    def write(self, index: int, raw: bytes) -> Iterator[bytes]:
        """What one object of an answer's stream becomes."""
        if raw.startswith(_NO_CHOICES):
            last = json.loads(raw)
            self._usages.append((0, last["usage"]))
            self._created = last["created"]
            if self._verbatim:
                self._id = last["id"]
            return
        if not self._begun[index]:
            self._begun[index] = True
            raw = _begin(raw)
        if not self._verbatim:
            yield from self._rewritten(index, json.loads(raw))
        elif self._with_usage:
            yield raw[:-1] + b',"usage":null}'
        else:
            yield raw

    def finish(self) -> Iterator[bytes]:
        """What comes after the last object of the last answer."""
        if self._with_usage:
            last = {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": self._model,
                "choices": [],
                "usage": total_usage(self._usages),
            }
            yield json.dumps(last).encode()

    def _choice(self, index: int, choice: dict[str, Any]) -> dict[str, Any]:
        message = {"content": None, "refusal": None} | choice["message"]
        reason = choice["finish_reason"]
        if message.get("tool_calls") and not message["content"]:
            message["content"] = None
        if (reader := self._readers[index]) is not None:
            calls = gathered([*reader.feed(message["content"] or ""), *reader.finish()])
            message["content"] = None
            if calls:
                message["tool_calls"] = calls
                reason = _reason_of_call(reason)
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.get("logprobs")),
            "finish_reason": reason,
        }

    def _rewritten(self, index: int, chunk: dict[str, Any]) -> Iterator[bytes]:
        (choice,) = chunk["choices"]
        choice["index"] = index
        if choice.get("logprobs"):
            choice["logprobs"] = self._logprobs(choice["logprobs"])
        reader = self._readers[index]
        if reader is not None and not self._call_delta(reader, choice):
            return
        chunk = {name: value for name, value in chunk.items() if name in _KEPT}
        chunk |= {"id": self._id, "model": self._model, "choices": [choice]}
        if self._with_usage:
            chunk["usage"] = None
        yield json.dumps(chunk).encode()

    def _call_delta(self, reader: CallsReader, choice: dict[str, Any]) -> bool:
        """Make the delta of a text that of calls. Whether there is anything to tell."""
        reason = choice["finish_reason"]
        calls = list(reader.feed(choice["delta"].pop("content", None) or ""))
        if reason is not None:
            calls += reader.finish()
        if calls:
            choice["delta"]["tool_calls"] = calls
        if reason is not None and reader.called:
            choice["finish_reason"] = _reason_of_call(reason)
        return bool(choice["delta"] or choice.get("logprobs") or reason)

    def _logprobs(self, logprobs: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if not logprobs:
            return None
        content = [
            _token(item)
            | {"top_logprobs": [_token(top) for top in item["top_logprobs"][: self._top_logprobs]]}
            for item in logprobs.get("content") or []
        ]
        return {"content": content, "refusal": None}


_KEPT: Final = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})


def _begin(raw: bytes) -> bytes:
    """The first object with its role: llama.cpp leaves it out when the answer ends before its first word."""
    if b'"role"' in raw:
        return raw
    chunk = json.loads(raw)
    for choice in chunk["choices"]:
        choice["delta"] = {"role": "assistant"} | choice["delta"]
    return json.dumps(chunk).encode()


def _reason_of_call(reason: str) -> str:
    return "tool_calls" if reason == "stop" else reason


def _token(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item.get("bytes")}


def _translate(body: Mapping[str, Any], voice: Voice) -> dict[str, Any]:
    """All but tools and seed."""
    asked = sampling(body, translated=_TRANSLATED)
    asked |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    asked["messages"] = voice.messages.read(body["messages"])
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        asked["max_tokens"] = limit
    if body.get("logprobs"):
        asked |= {"logprobs": True, "top_logprobs": max(1, body.get("top_logprobs") or 0)}
    if (response_format := body.get("response_format")) is not None:
        asked["response_format"] = _response_format(response_format)
    if arguments := _template_arguments(body, voice):
        asked["chat_template_kwargs"] = arguments
    return asked


def _template_arguments(body: Mapping[str, Any], voice: Voice) -> dict[str, Any]:
    arguments = body.get("chat_template_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise InvalidRequest("'chat_template_kwargs' must be an object", param="chat_template_kwargs")
    effort = body.get("reasoning_effort")
    if effort is None:
        return dict(arguments)
    if effort in ("none", "minimal") and "enable_thinking" in voice.template_fields:
        return {"enable_thinking": False, **arguments}
    if "reasoning_effort" in voice.template_fields:
        return {"reasoning_effort": effort, **arguments}
    if "enable_thinking" in voice.template_fields:
        return {"enable_thinking": True, **arguments}
    raise UnsupportedParameter(
        "'reasoning_effort' cannot be honoured: this model's template does not know it",
        param="reasoning_effort",
    )


def _response_format(response_format: Mapping[str, Any]) -> Mapping[str, Any]:
    if response_format["type"] == "json_schema":
        schema = response_format["json_schema"].get("schema")
        if schema is None:
            return {"type": "json_object"}
        check_schema(schema, "response_format.json_schema.schema")
    return response_format
