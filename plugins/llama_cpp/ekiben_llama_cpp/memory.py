"""How much memory a GGUF model takes, from its header.

Keys and values: for each layer, `n_embd_k_gqa` and `n_embd_v_gqa` numbers for each token of context, as
`llama_kv_cache` in llama.cpp allocates them. Activations: the widest tensors of one micro-batch, and the
scores of attention, which its graph allocator reserves for the worst case. Projectors and adapters are
taken at the size of their files, and a projector's activations at half of that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben.contract.gguf import GgufModel
from ekiben_llama_cpp.files import ModelFiles
from ekiben_llama_cpp.sizes import Sizes, sizes_of

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

_FLOAT_BYTES: Final = 4
_WIDE_TENSORS: Final = 4
"""Tensors as wide as the embedding, or the feed-forward layer, that are alive at once."""
_PROJECTOR_ACTIVATIONS: Final = 0.5


def estimate(request: LoadRequest, files: ModelFiles) -> MemoryEstimate:
    """On a GPU, layers that have no room there stay on the host."""
    options, model = request.options, files.model
    sizes = sizes_of(request, model)
    working = working_bytes(model, sizes, options) + _companions_working_bytes(files, sizes, options)
    size_bytes = files.size_bytes
    library = 0 if "xllamacpp" in sys.modules else LIBRARY_BYTES
    prompts = options["prompt_cache_mb"] * 2**20
    if request.device.kind == "cpu":
        whole = SERVER_BYTES + library + working + prompts
        return MemoryEstimate(weights_bytes=size_bytes, working_bytes=whole)
    layers = _number(model, "block_count", 1) + 1
    share = min(layers, options.get("gpu_layers", layers)) / layers
    left = int((size_bytes + working) * (1 - share))
    here = share / len(request.devices)
    return MemoryEstimate(
        weights_bytes=int(size_bytes * here),
        working_bytes=GPU_CONTEXT_BYTES + int(working * here),
        host_bytes=SERVER_BYTES + library + GPU_HOST_BYTES + prompts + left,
    )


def working_bytes(model: GgufModel, sizes: Sizes, options: Mapping[str, Any]) -> int:
    """Cache and activations."""
    # Scores of an encoder are those of its inputs among themselves, which one step holds.
    seen = sizes.step if sizes.encodes else sizes.tokens
    cache = 0 if sizes.encodes else _cache_bytes(model, sizes.tokens, options["kv_cache"])
    return cache + _compute_bytes(model, seen, sizes.step)


def _companions_working_bytes(files: ModelFiles, sizes: Sizes, options: Mapping[str, Any]) -> int:
    working = 0
    if files.draft is not None:
        working += working_bytes(files.draft, replace(sizes, encodes=False), {"kv_cache": "f16"})
    if files.projector is not None:
        working += int(files.projector_bytes * _PROJECTOR_ACTIVATIONS)
    return working


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
