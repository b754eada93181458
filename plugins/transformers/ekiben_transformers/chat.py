"""A chat completion: OpenAI's request as answers to be written, and what is written as OpenAI's objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from ekiben.contract import TextRequest
from ekiben.contract.text.tools import CallsReader, ToolPlan, gathered, plan_tools
from ekiben.contract.text.usage import total_usage
from ekiben_transformers.answer import STOP, Ask, Piece, TokenScore, Writer
from ekiben_transformers.clock import unix_time
from ekiben_transformers.formats import Part, PartReader
from ekiben_transformers.parameters import Parameters, format_grammar
from ekiben_transformers.prompter import Prompter, opens_thoughts
from ekiben_transformers.vocabulary import Vocabulary

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
IMPOSSIBLE_LOGPROB: Final = -9999.0
"""What the API says of a token that could not have come; JSON has no minus infinity."""


class ChatJob:
    """One request, from translation to its last object. Raises at once what cannot be honoured."""

    def __init__(self, request: TextRequest, prompter: Prompter) -> None:
        """Blocking."""
        body = request.body
        self._vocabulary = prompter.vocabulary
        self._stream = request.stream
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk" if request.stream else "chat.completion",
            "created": unix_time(),
            "model": request.model,
        }
        plan = plan_tools(body)
        self.writers, thinking = _writers(request, prompter, plan)
        self._choices = [
            _Choice(plan, body, prompter, thinking=thinking, vocabulary=prompter.vocabulary)
            for _ in self.writers
        ]

    def write(self, index: int, piece: Piece) -> Iterator[bytes]:
        """What a piece of an answer adds to the stream."""
        for delta, logprobs, reason in self._choices[index].feed(piece):
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            yield self._chunk([choice])

    def add(self, index: int, piece: Piece) -> None:
        """The same for an answer that is wanted whole."""
        for _ in self._choices[index].feed(piece):
            pass

    def finish(self) -> Iterator[bytes]:
        """What comes last in the stream."""
        if self._with_usage:
            yield json.dumps(self._head | {"choices": [], "usage": self._usage()}).encode()

    def whole(self) -> bytes:
        choices = [choice.whole(index) for index, choice in enumerate(self._choices)]
        return json.dumps(self._head | {"choices": choices, "usage": self._usage()}).encode()

    def _chunk(self, choices: Sequence[Mapping[str, Any]]) -> bytes:
        chunk: dict[str, Any] = self._head | {"choices": choices}
        if self._with_usage:
            chunk["usage"] = None
        return json.dumps(chunk).encode()

    def _usage(self) -> dict[str, Any]:
        return total_usage((0, writer.usage()) for writer in self.writers)


def _writers(request: TextRequest, prompter: Prompter, plan: ToolPlan) -> tuple[list[Writer], bool]:
    """The answers to be written, and whether they begin inside of thoughts."""
    body = request.body
    parameters = Parameters(
        body,
        translated=_translated(body, prompter),
        defaults=prompter.defaults,
        vocabulary=prompter.vocabulary.size,
    )
    tools = plan.fields.get("tools") or ()
    described = tools if plan.must_call or plan.fields.get("tool_choice") != "none" else ()
    text = prompter.conversation(body["messages"], described, variables=_variables(body))
    prompt = prompter.encode(text, special=False)
    wanted = body.get("max_completion_tokens") or body.get("max_tokens")
    logprobs = (body.get("top_logprobs") or 0) if body.get("logprobs") else None
    asks = [
        Ask(
            prompt=prompt,
            sampling=parameters.sampling(index),
            max_tokens=prompter.room(prompt, wanted, param="messages", default=None),
            stops=parameters.stops,
            logprobs=logprobs,
            ends=frozenset() if parameters.ignores_ends else prompter.ends,
            adapter=request.adapter,
            special=bool(described) or prompter.reasons,
        )
        for index in range(body.get("n") or 1)
    ]
    source = format_grammar(plan.fields.get("response_format") or body.get("response_format"))
    forced = (source, "response_format") if source is not None else parameters.forced()
    return prompter.writers(asks, forced), opens_thoughts(text) and forced is None


def _translated(body: Mapping[str, Any], prompter: Prompter) -> frozenset[str]:
    """`reasoning_effort` is honoured by the templates that name it."""
    source = prompter.template.source if prompter.template is not None else ""
    return _TRANSLATED if "reasoning_effort" in source else _TRANSLATED - {"reasoning_effort"}


def _variables(body: Mapping[str, Any]) -> dict[str, Any]:
    variables = dict(body.get("chat_template_kwargs") or {})
    if body.get("reasoning_effort"):
        variables["reasoning_effort"] = body["reasoning_effort"]
    return variables


_Delta = tuple[dict[str, Any], dict[str, Any] | None, str | None]


class _Choice:
    """One answer on its way out: told as deltas, and kept for who wants it whole."""

    def __init__(
        self,
        plan: ToolPlan,
        body: Mapping[str, Any],
        prompter: Prompter,
        *,
        thinking: bool,
        vocabulary: Vocabulary,
    ) -> None:
        self._vocabulary = vocabulary
        self._wants_logprobs = bool(body.get("logprobs"))
        self._must_call: CallsReader | None = plan.reader()
        calls = bool(plan.fields.get("tools")) and plan.fields.get("tool_choice") != "none"
        self._parts = PartReader(
            prompter.calls if calls else None, reasons=prompter.reasons, thinking=thinking
        )
        self._one_call = body.get("parallel_tool_calls") is False
        self._begun = False
        self._scores: list[dict[str, Any]] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._told: list[dict[str, Any]] = []
        """Of the calls that had to be made, delta by delta."""
        self._reason = STOP
        self._all_scores: list[dict[str, Any]] = []

    def feed(self, piece: Piece) -> Iterator[_Delta]:
        if not self._begun:
            self._begun = True
            yield {"role": "assistant", "content": ""}, None, None
        if self._wants_logprobs:
            told = [score_object(self._vocabulary, score) for score in piece.scores]
            self._scores += told
            self._all_scores += told
        for delta in self._deltas(piece):
            yield delta, self._take_scores(), None
        if piece.finish_reason is not None:
            self._reason = piece.finish_reason
            if (self._calls or self._told) and self._reason == STOP:
                self._reason = "tool_calls"
            yield {}, self._take_scores(), self._reason

    def whole(self, index: int) -> dict[str, Any]:
        content = "".join(self._content)
        calls = self._calls or gathered(self._told)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not content.strip() else content,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if calls:
            message["tool_calls"] = calls
        logprobs = {"content": self._all_scores, "refusal": None} if self._wants_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self._reason}

    def _deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        last = piece.finish_reason is not None
        if (reader := self._must_call) is not None:
            told = [*reader.feed(piece.text), *(reader.finish() if last else ())]
            if told:
                self._told += told
                yield {"tool_calls": told}
            return
        for part in self._parts.feed(piece.text):
            yield from self._part_delta(part)
        if last:
            for part in self._parts.finish():
                yield from self._part_delta(part)

    def _part_delta(self, part: Part) -> Iterator[dict[str, Any]]:
        if part.call is not None:
            if self._one_call and self._calls:
                return
            self._calls.append(part.call)
            yield {"tool_calls": [{"index": len(self._calls) - 1} | part.call]}
        elif part.reasoning:
            self._reasoning.append(part.reasoning)
            yield {"reasoning_content": part.reasoning}
        else:
            self._content.append(part.text)
            yield {"content": part.text}

    def _take_scores(self) -> dict[str, Any] | None:
        scores, self._scores = self._scores, []
        return {"content": scores, "refusal": None} if scores else None


def score_object(vocabulary: Vocabulary, score: TokenScore) -> dict[str, Any]:
    """A token as the API shows it."""
    top = [_token(vocabulary, token, logprob) for token, logprob in score.top]
    return _token(vocabulary, score.token, score.logprob) | {"top_logprobs": top}


def _token(vocabulary: Vocabulary, token: int, logprob: float) -> dict[str, Any]:
    data = vocabulary.bytes_of(token)
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": max(logprob, IMPOSSIBLE_LOGPROB),
        "bytes": list(data),
    }
