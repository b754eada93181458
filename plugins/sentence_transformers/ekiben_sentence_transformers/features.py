"""Texts and tokens made ready for a model: tokenized once, and padded with those of about their length.

Everything here blocks, and is for one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

Encoded: TypeAlias = dict[str, list[int]]
"""What the tokenizer made of a text, by the model's own names; `input_ids` above all."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a model computes from, and how many tokens of each item it reads."""

    tensors: dict[str, Any]
    counts: list[int]
    order: list[int] | None = None
    """Of which item each row of the result is; None: they are in order."""

    def on(self, device: torch.device | str) -> dict[str, Any]:
        """The tensors there. A new dictionary, since models write into theirs."""
        return {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.tensors.items()
        }


class TextFeatures:
    """The tokenizer of a model."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._left = tokenizer.padding_side == "left"
        self._padding = {
            "input_ids": tokenizer.pad_token_id or 0,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        }

    def read(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, limit: int | None
    ) -> list[Encoded]:
        """Of each text, or of it and its partner, as many tokens as the limit allows."""
        arguments: dict[str, Any] = {"truncation": False}
        if limit is not None:
            arguments = {"truncation": "longest_first", "max_length": limit}
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            padding=False,
            return_attention_mask=False,
            verbose=False,
            **arguments,
        )
        names = list(encoded)
        return [dict(zip(names, values, strict=True)) for values in zip(*encoded.values(), strict=True)]

    def pad(self, encoded: Sequence[Encoded]) -> Features:
        """All of the same names, as tensors."""
        counts = [len(entry["input_ids"]) for entry in encoded]
        longest = max(counts)
        tensors = {
            name: torch.from_numpy(self._filled([entry[name] for entry in encoded], name, longest))
            for name in encoded[0]
        }
        tensors["attention_mask"] = torch.from_numpy(
            self._filled([[1] * count for count in counts], "attention_mask", longest)
        )
        return Features(tensors, counts)

    def cut(self, texts: Sequence[str], *, limit: int) -> list[str]:
        """Their beginnings of so many tokens, special ones not counted."""
        return [text if len(text.encode()) <= limit else self._cut(text, limit) for text in texts]

    def _cut(self, text: str, limit: int) -> str:
        fast = self.tokenizer.is_fast
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            truncation=True,
            max_length=limit,
            return_offsets_mapping=fast,
            verbose=False,
        )
        if not fast:
            shorter: str = self.tokenizer.decode(encoded["input_ids"])
            return shorter
        ends = [end for _, end in encoded["offset_mapping"]]
        return text[: max(ends, default=0)]

    def _filled(self, rows: Sequence[Sequence[int]], name: str, width: int) -> Any:
        filled = np.full((len(rows), width), self._padding.get(name, 0), dtype=np.int64)
        for index, row in enumerate(rows):
            if self._left:
                filled[index, width - len(row) :] = row
            else:
                filled[index, : len(row)] = row
        return filled


def counts_of(tensors: dict[str, Any], items: int) -> list[int]:
    """How many tokens the model reads of each item, by what the library made ready."""
    mask = tensors.get("attention_mask")
    if mask is not None:
        return [int(count) for count in mask.sum(dim=1)]
    if "offsets" not in tensors:
        return [0] * items
    # Models without attention get all texts in one row, with the place where each begins.
    starts = [*tensors["offsets"].tolist(), tensors["input_ids"].numel()]
    return [starts[index + 1] - starts[index] for index in range(items)]
