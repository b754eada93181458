"""A completion: OpenAI's request as requests to llama.cpp, and its answers as OpenAI's.

Every answer to every prompt is a request of its own, and the log probabilities, which llama.cpp gives in
the shape of chats, are put into their older one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import uuid4

from ekiben.contract import InvalidRequest, TextRequest, UnsupportedParameter
from ekiben.contract.text.usage import total_usage
from ekiben_llama_cpp.draft import CompletionDraft, Draft
from ekiben_llama_cpp.parameters import sampling, seeds
from ekiben_llama_cpp.voice import Voice

Prompt: TypeAlias = str | list[int]

DEFAULT_MAX_TOKENS: Final = 16

_TRANSLATED: Final = frozenset({"best_of", "echo", "logprobs", "max_tokens", "n", "prompt", "seed", "suffix"})
_IMPOSSIBLE_LOGPROB: Final = -9999.0
"""What the API says of a token that could not have come; JSON has no minus infinity."""


def prompts_of(body: Mapping[str, Any]) -> list[Prompt]:
    """One for each text, or list of tokens."""
    prompt = body["prompt"]
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


class CompletionJob:
    """One request, from translation to its last chunk. Raises at once what cannot be honoured."""

    path: Final = "/v1/completions"

    def __init__(
        self, request: TextRequest, voice: Voice, *, prompts: Sequence[Prompt], echoes: Sequence[str]
    ) -> None:
        """`prompts`: what is computed. `echoes`: for each, the text that stands in front of its answers."""
        body = request.body
        self._model = request.model
        self._id = f"cmpl-{uuid4().hex}"
        self._created = 0
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._wanted: int = body.get("n") or 1
        self._made: int = body.get("best_of") or self._wanted
        self._logprobs: int | None = body.get("logprobs")
        self._echoes = echoes
        self._usages: list[tuple[int, Mapping[str, Any]]] = []
        self._check(body, stream=request.stream)
        self._written = [0] * (len(prompts) * self._made)
        self._begun = [False] * len(self._written)
        shared = self._translate(body) | voice.adapted(request.adapter)
        self.asks = [
            shared | seed | {"prompt": prompt} for prompt in prompts for seed in seeds(body, self._made)
        ]

    def draft(self) -> Draft:
        """For an answer that is wanted whole."""
        return CompletionDraft()

    def merge(self, answers: Sequence[dict[str, Any]]) -> bytes:
        """The `text_completion` of all answers, or of the best ones for each prompt."""
        chosen = [
            answer["choices"][0]
            for start in range(0, len(answers), self._made)
            for answer in self._best(answers[start : start + self._made])
        ]
        whole = {name: value for name, value in answers[0].items() if name in _KEPT}
        whole |= {
            "id": self._id,
            "model": self._model,
            "choices": [
                self._choice(choice, index, echo=self._echoes[index // self._wanted])
                for index, choice in enumerate(chosen)
            ],
            "usage": total_usage((i // self._made, answer["usage"]) for i, answer in enumerate(answers)),
        }
        return json.dumps(whole).encode()

    def write(self, index: int, raw: bytes) -> Iterator[bytes]:
        """What one object of an answer's stream becomes."""
        chunk = json.loads(raw)
        self._created = chunk["created"]
        if (usage := chunk.get("usage")) is not None:
            self._usages.append((index // self._made, usage))
        (choice,) = chunk["choices"]
        echo = "" if self._begun[index] else self._echoes[index // self._made]
        self._begun[index] = True
        choice = self._choice(choice, index, echo=echo, offset=self._written[index])
        self._written[index] += len(choice["text"])
        chunk = {name: value for name, value in chunk.items() if name in _KEPT and name != "usage"}
        chunk |= {"id": self._id, "model": self._model, "choices": [choice]}
        if self._with_usage:
            chunk["usage"] = None
        yield json.dumps(chunk).encode()

    def finish(self) -> Iterator[bytes]:
        """What comes after the last object of the last answer."""
        if self._with_usage:
            last = {
                "id": self._id,
                "object": "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": [],
                "usage": total_usage(self._usages),
            }
            yield json.dumps(last).encode()

    def _check(self, body: Mapping[str, Any], *, stream: bool) -> None:
        if stream and self._made > self._wanted:
            raise InvalidRequest("the best of several cannot be streamed", param="best_of")
        if body.get("echo") and self._logprobs is not None:
            raise UnsupportedParameter(
                "llama.cpp gives no log probabilities of the prompt: leave out 'echo' or 'logprobs'",
                param="echo",
            )

    def _translate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """All but prompt and seed."""
        asked = sampling(body, translated=_TRANSLATED)
        asked["max_tokens"] = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        if self._logprobs is not None or self._made > self._wanted:
            asked["logprobs"] = max(1, self._logprobs or 0)
        return asked | {"stream": True, "return_progress": True}

    def _best(self, answers: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The wanted number, those with the highest log probability per token first."""
        if self._made == self._wanted:
            return answers
        return sorted(answers, key=_mean_logprob, reverse=True)[: self._wanted]

    def _choice(self, choice: Mapping[str, Any], index: int, *, echo: str, offset: int = 0) -> dict[str, Any]:
        items = _items(choice)
        logprobs = None
        if self._logprobs is not None and items:
            logprobs = _legacy_logprobs(items, top=self._logprobs, offset=offset)
        return {
            "text": echo + choice["text"],
            "index": index,
            "logprobs": logprobs,
            "finish_reason": choice["finish_reason"],
        }


_KEPT: Final = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})


def _items(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    return (choice.get("logprobs") or {}).get("content") or []


def _mean_logprob(answer: Mapping[str, Any]) -> float:
    values = [_logprob(item) for item in _items(answer["choices"][0])]
    return sum(values) / len(values) if values else _IMPOSSIBLE_LOGPROB


def _logprob(item: Mapping[str, Any]) -> float:
    value: float | None = item["logprob"]
    return _IMPOSSIBLE_LOGPROB if value is None else value


def _legacy_logprobs(items: Sequence[Mapping[str, Any]], *, top: int, offset: int) -> dict[str, Any]:
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item["token"])
    return {
        "tokens": [item["token"] for item in items],
        "token_logprobs": [_logprob(item) for item in items],
        "top_logprobs": [
            {entry["token"]: _logprob(entry) for entry in item["top_logprobs"][:top]} for item in items
        ],
        "text_offset": offsets,
    }
