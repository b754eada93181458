"""How much memory a GGUF model takes, from its header.

Keys and values: for each layer, `n_embd_k_gqa` and `n_embd_v_gqa` numbers for each token of context, as
`llama_kv_cache` in llama.cpp allocates them. Activations: the widest tensors of one micro-batch, and the
scores of attention, which its graph allocator reserves for the worst case.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import MemoryEstimate
from ekiben.contract.gguf import GgufModel

CACHE_BYTES: Final[Mapping[str, float]] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one number in the cache of keys and values; the quantised ones are blocks of 32."""

LIBRARY_BYTES: Final = 24 * 2**20
"""What of llama.cpp's code is used."""
SERVER_BYTES: Final = 12 * 2**20
"""Vocabulary, threads and what else llama.cpp's server keeps; measured."""
GPU_CONTEXT_BYTES: Final = 448 * 2**20
"""What CUDA takes of a GPU for itself, allowed for."""
GPU_HOST_BYTES: Final = 384 * 2**20
"""What it takes of the host's memory, allowed for."""

_CPU_BATCH: Final = 32
_GPU_BATCH: Final = 512
_FLOAT_BYTES: Final = 4
_WIDE_TENSORS: Final = 4
"""Tensors as wide as the embedding, or the feed-forward layer, that are alive at once."""


def context_tokens(model: GgufModel, options: Mapping[str, Any]) -> int:
    """Tokens that one request may use."""
    wanted: int = options["context"]
    return min(wanted, model.context_tokens or wanted)


def batch_tokens(options: Mapping[str, Any], *, device: str) -> int:
    """Tokens of prompts that are computed in one step, which nothing can interrupt."""
    given: int | None = options.get("batch")
    return given or (_CPU_BATCH if device == "cpu" else _GPU_BATCH)


def estimate(model: GgufModel, size_bytes: int, options: Mapping[str, Any], *, device: str) -> MemoryEstimate:
    """`size_bytes`: of the files. On a GPU, layers that have no room there stay on the host."""
    working = working_bytes(model, options, device=device)
    library = 0 if "xllamacpp" in sys.modules else LIBRARY_BYTES
    prompts = options["prompt_cache_mb"] * 2**20
    if device == "cpu":
        whole = SERVER_BYTES + library + working + prompts
        return MemoryEstimate(weights_bytes=size_bytes, working_bytes=whole)
    layers = _number(model, "block_count", 1) + 1
    share = min(layers, options.get("gpu_layers", layers)) / layers
    on_gpu = GPU_CONTEXT_BYTES + int(working * share)
    left = int((size_bytes + working) * (1 - share))
    return MemoryEstimate(
        weights_bytes=int(size_bytes * share),
        working_bytes=on_gpu,
        host_bytes=SERVER_BYTES + library + GPU_HOST_BYTES + prompts + left,
    )


def working_bytes(model: GgufModel, options: Mapping[str, Any], *, device: str) -> int:
    """Cache and activations."""
    tokens = context_tokens(model, options) * options["parallel"]
    batch = batch_tokens(options, device=device)
    return _cache_bytes(model, tokens, options["kv_cache"]) + _compute_bytes(model, tokens, batch)


def _cache_bytes(model: GgufModel, tokens: int, kind: str) -> int:
    heads = _number(model, "attention.head_count", 1)
    per_head = _number(model, "embedding_length", 0) // max(1, heads)
    width = _number(model, "attention.key_length", per_head) + _number(
        model, "attention.value_length", per_head
    )
    numbers = (
        _number(model, "block_count", 0) * tokens * _number(model, "attention.head_count_kv", heads) * width
    )
    return int(numbers * CACHE_BYTES[kind])


def _compute_bytes(model: GgufModel, tokens: int, batch: int) -> int:
    widths = (
        _number(model, "embedding_length", 0) + _number(model, "feed_forward_length", 0)
    ) * _WIDE_TENSORS
    scores = _number(model, "attention.head_count", 1) * tokens
    return batch * _FLOAT_BYTES * (widths + scores + _number(model, "vocab_size", 0))


def _number(model: GgufModel, key: str, default: int) -> int:
    """A count of the model's architecture; those that differ from layer to layer are kept as arrays."""
    value = model.metadata.get(f"{model.architecture}.{key}")
    return value if isinstance(value, int) and value > 0 else default
