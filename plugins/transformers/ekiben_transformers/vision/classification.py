"""Classes for pictures: the model's own, or words that the request brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch

from ekiben.contract import ClassifyRequest, InvalidRequest, Item, Label, Run, UnsupportedParameter
from ekiben_transformers.vision.network import Network, Seen

PHRASE: Final = "This is a photo of {}."
"""What the library's own pipeline says of each word."""


class Classification:
    """Batching for models with classes of their own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        config = network.model.config
        self._names = [str(config.id2label[number]) for number in range(config.num_labels)]
        self._independent = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self.max_items = network.max_items
        self.max_length: int | None = network.max_length

    def items(self, request: ClassifyRequest) -> list[Item[Seen]]:
        if request.labels:
            raise UnsupportedParameter("this model has labels of its own: leave out 'labels'", param="labels")
        return [self._network.item(request.image)]

    def prepare(self, values: Sequence[Seen]) -> Any:
        return self._network.prepare(values)

    def compute(self, prepared: Any, run: Run) -> list[list[float]]:
        logits = self._network.compute(prepared, run).logits.float()
        scores = logits.sigmoid() if self._independent else logits.softmax(-1)
        found: list[list[float]] = scores.tolist()
        return found

    def answer(self, request: ClassifyRequest, results: Sequence[list[float]]) -> list[Label]:
        return _ranked(self._names, results[0])


@dataclass(frozen=True, slots=True)
class Choice:
    """A picture, and what to choose from."""

    seen: Seen
    labels: tuple[str, ...]


class Choosing:
    """Batching for models that compare pictures with any words."""

    def __init__(self, network: Network, tokenizer: Any) -> None:
        self._network = network
        self._tokenizer = tokenizer
        kind = str(network.model.config.model_type)
        self._independent = kind.startswith("siglip")
        self._padding: dict[str, Any] = (
            {"padding": "max_length", "max_length": 64} if self._independent else {"padding": True}
        )
        self._read = lru_cache(maxsize=64)(self._tokens)
        self.max_items = network.max_items
        self.max_length: int | None = network.max_length

    def items(self, request: ClassifyRequest) -> list[Item[Choice]]:
        if not request.labels:
            raise InvalidRequest("this model has no labels of its own: send 'labels'", param="labels")
        labels = tuple(request.labels)
        item = self._network.item(request.image, group=labels)
        return [Item(Choice(item.value, labels), length=item.length, group=item.group)]

    def prepare(self, values: Sequence[Choice]) -> Any:
        pictures = self._network.prepare([choice.seen for choice in values])
        return pictures | self._read(values[0].labels)

    def compute(self, prepared: Any, run: Run) -> list[list[float]]:
        logits = self._network.compute(prepared, run).logits_per_image.float()
        scores = logits.sigmoid() if self._independent else logits.softmax(-1)
        found: list[list[float]] = scores.tolist()
        return found

    def answer(self, request: ClassifyRequest, results: Sequence[list[float]]) -> list[Label]:
        return _ranked(request.labels, results[0])

    def _tokens(self, labels: tuple[str, ...]) -> dict[str, torch.Tensor]:
        phrases = [PHRASE.format(label) for label in labels]
        made = self._tokenizer(phrases, return_tensors="pt", truncation=True, **self._padding)
        return {name: tensor.to(self._network.model.device) for name, tensor in made.items()}


def _ranked(names: Sequence[str], scores: Sequence[float]) -> list[Label]:
    pairs = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
    return [Label(label=name, score=score) for name, score in pairs]
