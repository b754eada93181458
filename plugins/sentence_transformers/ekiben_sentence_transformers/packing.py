"""Texts of any lengths computed in one row, without padding, on the CPU.

Most of an encoder's work is done for each token by itself, and only attention looks at others. So the texts
of a batch lie one after the other in a single row, as sentence-transformers lays them for the kernels of
GPUs, and attention is computed for each run of texts of one length apart. The vectors are the same; what
padding would have cost, a quarter and more where lengths vary, is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ekiben_sentence_transformers.features import Encoded, Features

ATTENTION: Final = "ekiben_packed"
MODEL_TYPES: Final = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})
"""Those that have been seen to compute the same either way. Where attention depends on more than the text
itself, as with windows or relative positions, they would not."""
_MODULES: Final = (Transformer, Pooling, Dense, Normalize)
"""What comes after the transformer must know what a row of several texts is."""
_RUNS: Final = "ekiben_runs"
"""How many texts of which length follow each other, in the model's arguments."""


def packing_of(model: SentenceTransformer) -> Packing | None:
    """Have the model take rows of several texts as well, if it can; the usual ones it still takes."""
    if not _packable(model):
        return None
    first: Any = model[0]
    if first.model_forward_params is not None:
        first.model_forward_params |= {_RUNS}
    first.model.set_attn_implementation(ATTENTION)
    return Packing(first_position=first._infer_flatten_position_offset())


def _packable(model: SentenceTransformer) -> bool:
    first = model[0]
    if not isinstance(first, Transformer) or not isinstance(first.model, PreTrainedModel):
        return False  # another library computes
    return (
        all(isinstance(module, _MODULES) for module in model)
        and model.device.type == "cpu"
        and first.modality_config.get("text", {}).get("method") == "forward"
        and getattr(first.config, "model_type", None) in MODEL_TYPES
        and getattr(first.config, "_attn_implementation", None) == "sdpa"
    )


class Packing:
    """Of a model's texts."""

    def __init__(self, *, first_position: int) -> None:
        """`first_position`: by which number the model knows the first token of a text."""
        self._first_position = first_position

    def pack(self, encoded: Sequence[Encoded]) -> Features:
        """All in one row, the shortest first."""
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]["input_ids"]))
        lengths = [len(encoded[index]["input_ids"]) for index in order]
        tensors: dict[str, Any] = {
            name: _row([np.asarray(encoded[index][name], dtype=np.int64) for index in order])
            for name in encoded[0]
        }
        first = self._first_position
        tensors["position_ids"] = _row([np.arange(first, first + length) for length in lengths])
        ends = np.cumsum([0, *lengths], dtype=np.int32)
        tensors["cu_seq_lens_q"] = torch.from_numpy(ends)
        tensors["seq_idx"] = _row([np.full(length, index) for index, length in enumerate(lengths)])
        tensors[_RUNS] = [(len(list(run)), length) for length, run in groupby(lengths)]
        return Features(tensors, [len(entry["input_ids"]) for entry in encoded], order)


def _row(pieces: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64, copy=False)[None])


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As the library calls it: (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    runs: Sequence[tuple[int, int]] | None = options.pop(_RUNS, None)
    if runs is None:
        made, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return made, None
    rows = torch.empty_like(query.transpose(1, 2))
    begin = 0
    for count, length in runs:
        end = begin + count * length
        queries, keys, values = (
            states[0, :, begin:end].reshape(-1, count, length, states.shape[-1]).transpose(0, 1)
            for states in (query, key, value)
        )
        made, _ = sdpa_attention_forward(module, queries, keys, values, None, **options)
        rows[0, begin:end] = made.flatten(0, 1)
        begin = end
    return rows, None


def _mask(*arguments: Any, **options: Any) -> Any:
    """A row of several texts comes without a mask, and needs none."""
    if options.get("attention_mask") is None:
        return None
    return sdpa_mask(*arguments, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
