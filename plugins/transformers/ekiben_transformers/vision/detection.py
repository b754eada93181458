"""Objects in pictures, with boxes around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ekiben.contract import DetectedObject, Detection, DetectRequest, Item, Run
from ekiben_transformers.vision.network import Network, Seen


@dataclass(frozen=True, slots=True)
class _Ready:
    inputs: dict[str, Any]
    sizes: list[tuple[int, int]]


class Detecting:
    """Batching for detectors."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._names = {int(number): str(name) for number, name in network.model.config.id2label.items()}
        self.max_items = network.max_items
        self.max_length: int | None = network.max_length

    def items(self, request: DetectRequest) -> list[Item[Seen]]:
        return [self._network.item(request.image)]

    def prepare(self, values: Sequence[Seen]) -> _Ready:
        return _Ready(self._network.prepare(values), [seen.size for seen in values])

    def compute(self, prepared: _Ready, run: Run) -> list[Detection]:
        """With objects of any score: each request has a threshold of its own."""
        said = self._network.compute(prepared.inputs, run)
        found = self._network.processor.post_process_object_detection(
            said, threshold=0.0, target_sizes=prepared.sizes
        )
        return [self._detection(*pair) for pair in zip(found, prepared.sizes, strict=True)]

    def answer(self, request: DetectRequest, results: Sequence[Detection]) -> Detection:
        seen = results[0]
        return replace(seen, objects=[one for one in seen.objects if one.score >= request.threshold])

    def _detection(self, found: dict[str, Any], size: tuple[int, int]) -> Detection:
        height, width = size
        rows = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True)
        objects = [
            DetectedObject(
                label=self._names.get(label, str(label)), score=score, box=_within(box, width, height)
            )
            for score, label, box in sorted(rows, key=lambda row: -row[0])
        ]
        return Detection(width=width, height=height, objects=objects)


def _within(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
