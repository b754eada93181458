"""RERANK by a model that reads the query and a document together, and says how well they go together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer

from ekiben.contract import EngineError, Item, LoadRequest, Rerankings, RerankRequest, Run
from ekiben_sentence_transformers.features import Encoded, Features, TextFeatures, counts_of
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.sizes import CHARACTERS, batch_length
from ekiben_sentence_transformers.watch import Watch

Pair: TypeAlias = tuple[str, str]
Score: TypeAlias = tuple[float, int]
"""And how many tokens were read for it."""
PORTION: Final = 256
"""Documents that are tokenized in one go."""


class JudgeBatching:
    """The Batching. Its items are pairs, tokenized; with a template they are left to the library."""

    def __init__(self, model: CrossEncoder, folder: ModelFolder, request: LoadRequest) -> None:
        self._model = model
        self._watch = Watch(model)
        self._texts = TextFeatures(model.tokenizer)
        self._plain = _is_plain(model)
        self._prompt = model.prompts.get(model.default_prompt_name or "")
        self.max_items = int(request.options["batch_size"])
        self.max_length = batch_length(request, folder)

    def items(self, request: RerankRequest) -> Iterable[Item[Encoded | Pair]]:
        for begin in range(0, len(request.documents), PORTION):
            yield from self._items(request, request.documents[begin : begin + PORTION])

    def prepare(self, values: Sequence[Encoded | Pair]) -> Features:
        if self._plain:
            encoded: Any = values
            features = self._texts.pad(encoded)
            features.tensors["modality"] = "text"
            return features
        tensors = self._model.preprocess(list(values), prompt=self._prompt)
        return Features(tensors, counts_of(tensors, len(values)))

    def compute(self, prepared: Features, run: Run) -> Sequence[Score]:
        with self._watch.over(run):
            scores = self._model(prepared.on(self._model.device))["scores"].float()
            if self._model.activation_fn is not None:
                scores = self._model.activation_fn(scores)
            values = scores.reshape(len(prepared.counts)).cpu().tolist()
        return list(zip(values, prepared.counts, strict=True))

    def answer(self, request: RerankRequest, results: Sequence[Score]) -> Rerankings:
        return rankings([score for score, _ in results], prompt_tokens=sum(count for _, count in results))

    def _items(self, request: RerankRequest, documents: Sequence[str]) -> list[Item[Encoded | Pair]]:
        if request.max_tokens_per_document is not None:
            documents = self._texts.cut(documents, limit=request.max_tokens_per_document)
        queries = [request.query] * len(documents)
        limit = self._model.max_seq_length
        if self._plain:
            pairs = self._texts.read(queries, documents, limit=limit)
            return [Item(encoded, len(encoded["input_ids"])) for encoded in pairs]
        return [
            Item((request.query, document), rough_length(request.query + document, limit))
            for document in documents
        ]


def rankings(scores: Sequence[float], *, prompt_tokens: int) -> Rerankings:
    """Raises EngineError where the numbers are none."""
    if not np.isfinite(scores).all():
        raise EngineError("the scores overflowed: load the model with the option dtype: float32")
    return Rerankings(scores=scores, prompt_tokens=prompt_tokens)


def rough_length(text: str, limit: int | None) -> int:
    """Of a text that only the library tokenizes."""
    length = 1 + len(text) // CHARACTERS
    return length if limit is None else min(length, limit)


def _is_plain(model: CrossEncoder) -> bool:
    """Whether the library does nothing with pairs but to tokenize and to pad them."""
    first = model[0]
    return (
        isinstance(first, Transformer)
        and "message" not in first.modality_config
        and first.transformer_task == "sequence-classification"
        and not model.prompts.get(model.default_prompt_name or "")
    )
