"""MODERATE by a text classifier. Long texts are read to their end, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from ekiben.contract import EngineError, Item, LoadFailed, LoadRequest, ModerateRequest, Moderation, Run
from ekiben_sentence_transformers.categories import categories_of
from ekiben_sentence_transformers.features import Encoded, Features, TextFeatures
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.sizes import batch_length
from ekiben_sentence_transformers.watch import Watch

OVERLAP: Final = 8
"""The part of a piece that the next one begins with, so that nothing hides where two of them meet."""
MULTI_LABEL: Final = "multi_label_classification"


@dataclass(frozen=True, slots=True)
class Piece:
    """Of a text."""

    text: int
    """Its index in the request."""
    encoded: Encoded


@dataclass(frozen=True, slots=True)
class Judged:
    text: int
    scores: list[float]
    tokens: int


class ModerateBatching:
    """The Batching."""

    def __init__(self, model: Any, tokenizer: Any, folder: ModelFolder, request: LoadRequest) -> None:
        config = model.config
        self._model = model
        self._watch = Watch(model)
        self._texts = TextFeatures(tokenizer)
        self._categories = categories_of(
            [str(config.id2label[index]) for index in range(config.num_labels)], request.options
        )
        self._independent = config.problem_type == MULTI_LABEL or config.num_labels == 1
        self._longest = _longest(tokenizer, folder, request)
        self.max_items = int(request.options["batch_size"])
        self.max_length = batch_length(request, folder)

    def items(self, request: ModerateRequest) -> Iterable[Item[Piece]]:
        for index, text in enumerate(request.texts):
            for encoded in self._pieces(text):
                yield Item(Piece(index, encoded), len(encoded["input_ids"]))

    def prepare(self, values: Sequence[Piece]) -> tuple[Sequence[Piece], Features]:
        return values, self._texts.pad([piece.encoded for piece in values])

    def compute(self, prepared: tuple[Sequence[Piece], Features], run: Run) -> Sequence[Judged]:
        pieces, features = prepared
        with self._watch.over(run):
            logits = self._model(**features.on(self._model.device)).logits.float()
            scores = logits.sigmoid() if self._independent else logits.softmax(dim=-1)
            if not torch.isfinite(scores).all():
                raise EngineError("the scores overflowed: load the model with the option dtype: float32")
            rows = scores.cpu().tolist()
        return [
            Judged(piece.text, row, count)
            for piece, row, count in zip(pieces, rows, features.counts, strict=True)
        ]

    def answer(self, request: ModerateRequest, results: Sequence[Judged]) -> Moderation:
        """A text is as bad as its worst piece, label by label."""
        worst: dict[int, list[float]] = {}
        for judged in results:
            before = worst.get(judged.text, judged.scores)
            worst[judged.text] = [max(pair) for pair in zip(before, judged.scores, strict=True)]
        return Moderation(
            texts=[self._categories.judged(worst[index]) for index in range(len(request.texts))],
            prompt_tokens=sum(judged.tokens for judged in results),
        )

    def _pieces(self, text: str) -> list[Encoded]:
        if not self._texts.tokenizer.is_fast:
            return self._texts.read([text], limit=self._longest)
        encoded = self._texts.tokenizer(
            text,
            truncation=True,
            max_length=self._longest,
            stride=self._longest // OVERLAP,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        names = [name for name in encoded if name != "overflow_to_sample_mapping"]
        return [dict(zip(names, row, strict=True)) for row in zip(*(encoded[n] for n in names), strict=True)]


def _longest(tokenizer: Any, folder: ModelFolder, request: LoadRequest) -> int:
    """Tokens of a piece."""
    own = min(int(tokenizer.model_max_length), folder.max_length())
    asked = int(request.options.get("max_length", own))
    if asked > own:
        raise LoadFailed(f"the option max_length is {asked}, the model has {own} positions")
    return asked
