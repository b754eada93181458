"""A completion: prompts as answers to be written, and what is written as OpenAI's older objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from ekiben.contract import InvalidRequest, TextRequest
from ekiben.contract.text.usage import total_usage
from ekiben_transformers.answer import Ask, Piece, TokenScore, Writer
from ekiben_transformers.chat import IMPOSSIBLE_LOGPROB
from ekiben_transformers.clock import unix_time
from ekiben_transformers.parameters import Parameters
from ekiben_transformers.prompter import Prompter
from ekiben_transformers.vocabulary import Vocabulary

DEFAULT_MAX_TOKENS: Final = 16
_TRANSLATED: Final = frozenset({"best_of", "echo", "logprobs", "max_tokens", "n", "prompt", "seed"})

PromptScores = Sequence[TokenScore | None]
"""Of each token of a prompt; of the first there is none."""


class CompletionJob:
    """One request, from translation to its last object. Raises at once what cannot be honoured."""

    def __init__(self, request: TextRequest, prompter: Prompter) -> None:
        """Blocking."""
        body = request.body
        self._vocabulary = prompter.vocabulary
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._wanted: int = body.get("n") or 1
        self._made: int = body.get("best_of") or self._wanted
        if request.stream and self._made > self._wanted:
            raise InvalidRequest("'best_of' cannot be streamed: leave it out, or 'stream'", param="best_of")
        self.logprobs: int | None = body.get("logprobs")
        self._head: dict[str, Any] = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": unix_time(),
            "model": request.model,
        }
        self.prompts, texts = _prompts(body, prompter)
        self._echoes = texts if body.get("echo") else [""] * len(texts)
        self.echoes = bool(body.get("echo"))
        self.writers = self._make_writers(request, prompter)
        self._texts: list[list[str]] = [[] for _ in self.writers]
        self._scores: list[list[TokenScore]] = [[] for _ in self.writers]
        self._reasons = ["stop"] * len(self.writers)
        self._told = [0] * len(self.writers)
        self._begun = [False] * len(self.writers)
        self.prompt_scores: Sequence[PromptScores] = [[] for _ in self.prompts]
        """To be filled in where they are wanted."""

    @property
    def wants_prompt_scores(self) -> bool:
        return self.echoes and self.logprobs is not None

    def write(self, index: int, piece: Piece) -> Iterator[bytes]:
        """What a piece of an answer adds to the stream."""
        text, scores = piece.text, list[TokenScore | None](piece.scores)
        if not self._begun[index]:
            self._begun[index] = True
            text = self._echoes[index // self._made] + text
            scores = [*self.prompt_scores[index // self._made], *scores]
        if not text and not scores and piece.finish_reason is None:
            return
        choice = self._choice(index, text, scores, piece.finish_reason)
        chunk = self._head | {"choices": [choice]}
        if self._with_usage:
            chunk["usage"] = None
        yield json.dumps(chunk).encode()

    def add(self, index: int, piece: Piece) -> None:
        """The same for an answer that is wanted whole."""
        self._texts[index].append(piece.text)
        self._scores[index] += piece.scores
        if piece.finish_reason is not None:
            self._reasons[index] = piece.finish_reason

    def finish(self) -> Iterator[bytes]:
        if self._with_usage:
            yield json.dumps(self._head | {"choices": [], "usage": self._usage()}).encode()

    def whole(self) -> bytes:
        choices: list[dict[str, Any]] = []
        for prompt in range(len(self.prompts)):
            made = range(prompt * self._made, (prompt + 1) * self._made)
            best = sorted(made, key=self._mean_logprob, reverse=True)[: self._wanted]
            for index in sorted(best) if self._made == self._wanted else best:
                text = self._echoes[prompt] + "".join(self._texts[index])
                scores = [*self.prompt_scores[prompt], *self._scores[index]]
                choice = self._choice(index, text, scores, self._reasons[index])
                choices.append(choice | {"index": len(choices)})
        return json.dumps(self._head | {"choices": choices, "usage": self._usage()}).encode()

    def _make_writers(self, request: TextRequest, prompter: Prompter) -> list[Writer]:
        body = request.body
        parameters = Parameters(
            body,
            translated=_TRANSLATED,
            defaults=prompter.defaults,
            vocabulary=prompter.vocabulary.size,
        )
        ranked = self._made > self._wanted
        asks = [
            Ask(
                prompt=prompt,
                sampling=parameters.sampling(index),
                max_tokens=prompter.room(
                    prompt, body.get("max_tokens"), param="prompt", default=DEFAULT_MAX_TOKENS
                ),
                stops=parameters.stops,
                logprobs=0 if self.logprobs is None and ranked else self.logprobs,
                ends=frozenset() if parameters.ignores_ends else prompter.ends,
                adapter=request.adapter,
            )
            for prompt in self.prompts
            for index in range(self._made)
        ]
        return prompter.writers(asks, parameters.forced())

    def _choice(
        self, index: int, text: str, scores: Sequence[TokenScore | None], reason: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self.logprobs is not None:
            prompt = self.prompts[index // self._made]
            first = prompt[0] if scores and scores[0] is None else None
            logprobs = _logprobs(self._vocabulary, scores, first, self._told[index])
        self._told[index] += len(text)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _mean_logprob(self, index: int) -> float:
        scores = self._scores[index]
        return sum(score.logprob for score in scores) / len(scores) if scores else 0.0

    def _usage(self) -> dict[str, Any]:
        return total_usage((at // self._made, writer.usage()) for at, writer in enumerate(self.writers))


def _prompts(body: Mapping[str, Any], prompter: Prompter) -> tuple[list[list[int]], list[str]]:
    """Each prompt as tokens, and as the text that it is."""
    given = body["prompt"]
    entries = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    prompts, texts = [], []
    for entry in entries:
        if isinstance(entry, str):
            prompts.append(prompter.encode(entry, special=True))
            texts.append(entry)
        else:
            prompter.vocabulary.check(entry, param="prompt")
            prompts.append(list(entry))
            texts.append(prompter.vocabulary.decode(entry, special=True))
        if not prompts[-1]:
            raise InvalidRequest("'prompt' holds no token: send a text", param="prompt")
    return prompts, texts


def _logprobs(
    vocabulary: Vocabulary, scores: Sequence[TokenScore | None], first: int | None, offset: int
) -> dict[str, Any]:
    """`first`: the token without a score, if the list begins with one. `offset`: where the text begins."""
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for score in scores:
        token = score.token if score is not None else first
        text = vocabulary.text_of(token if token is not None else 0)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        values.append(None if score is None else max(score.logprob, IMPOSSIBLE_LOGPROB))
        tops.append(None if score is None else _top(vocabulary, score))
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _top(vocabulary: Vocabulary, score: TokenScore) -> dict[str, float]:
    """The likeliest tokens, and the one that came."""
    found = [*score.top, (score.token, score.logprob)]
    return {vocabulary.text_of(token): max(logprob, IMPOSSIBLE_LOGPROB) for token, logprob in found}
