"""RERANK by late interaction: each token of the query looks for the token of the document it is likest to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ekiben.contract import Item, LoadRequest, Rerankings, RerankRequest, Run
from ekiben_sentence_transformers.features import Features, TextFeatures, counts_of
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.judging import rankings, rough_length
from ekiben_sentence_transformers.sizes import batch_length
from ekiben_sentence_transformers.watch import Watch

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries are read once, of however many pairs they are."""

    queries: Features
    documents: Features
    query_of: list[int]
    """For each document."""


@dataclass(frozen=True, slots=True)
class Match:
    score: float
    query_tokens: int
    document_tokens: int


class MatchBatching:
    """The Batching. Vectors of tokens are large, so pairs are scored where they are computed."""

    def __init__(self, model: Any, folder: ModelFolder, request: LoadRequest) -> None:
        self._model = model
        self._watch = Watch(model)
        self._texts = TextFeatures(model.tokenizer)
        self.max_items = int(request.options["batch_size"])
        self.max_length = batch_length(request, folder)

    def items(self, request: RerankRequest) -> Iterable[Item[Pair]]:
        for document in request.documents:
            if request.max_tokens_per_document is not None:
                [document] = self._texts.cut([document], limit=request.max_tokens_per_document)
            yield Item((request.query, document), rough_length(document, self._model.max_seq_length))

    def prepare(self, values: Sequence[Pair]) -> Pairs:
        queries = list(dict.fromkeys(query for query, _ in values))
        return Pairs(
            self._read(queries, "query"),
            self._read([document for _, document in values], "document"),
            [queries.index(query) for query, _ in values],
        )

    def compute(self, prepared: Pairs, run: Run) -> Sequence[Match]:
        with self._watch.over(run):
            queries = self._vectors(prepared.queries, "query")
            documents = self._vectors(prepared.documents, "document")
            paired = [queries[index] for index in prepared.query_of]
            scores = self._model.similarity_pairwise(paired, documents).tolist()
        return [
            Match(score, prepared.queries.counts[index], count)
            for score, index, count in zip(scores, prepared.query_of, prepared.documents.counts, strict=True)
        ]

    def answer(self, request: RerankRequest, results: Sequence[Match]) -> Rerankings:
        read = sum(match.document_tokens for match in results)
        return rankings([match.score for match in results], prompt_tokens=results[0].query_tokens + read)

    def _read(self, texts: list[str], task: str) -> Features:
        prompt = self._model.prompts.get(task)
        tensors = self._model.preprocess(texts, prompt=prompt or None, task=task)
        return Features(tensors, counts_of(tensors, len(texts)))

    def _vectors(self, features: Features, task: str) -> list[Any]:
        """One matrix for each text: the vectors of the tokens that count."""
        out = self._model(features.on(self._model.device), task=task)
        masks = out["attention_mask"].bool()
        return [vectors[mask].float() for vectors, mask in zip(out["token_embeddings"], masks, strict=True)]
