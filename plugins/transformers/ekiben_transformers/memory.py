"""How much memory a model will take, from the headers of its files and its config."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben_transformers.folder import ModelFolder

WIDTH_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
QUANTIZED_BYTES: Final = {"int8": 1.05, "int4": 0.6}
"""Of a weight in a linear layer, its scales included."""
LIBRARY_BYTES: Final = 450 * 2**20
"""What torch and transformers hold by themselves."""
ACTIVATION_WIDTHS: Final = 12
"""Rows as wide as the hidden and the inner dimension that a token holds at the peak of a step."""
SCORE_BYTES: Final = 16
"""Of one entry of the vocabulary for one request: scores, and what choosing from them takes."""
GRAMMAR_BYTES: Final = 48 * 2**20
GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for."""


def estimate(folder: ModelFolder, request: LoadRequest, *, dtype: str) -> MemoryEstimate:
    config, options = folder.config(), request.options
    width = WIDTH_BYTES[dtype]
    library = 0 if "torch" in sys.modules else LIBRARY_BYTES
    tokens = context_tokens(config, options) * int(options["parallel"])
    working = tokens * _cache_bytes_per_token(config, width) + _step_bytes(config, request, width)
    working += GRAMMAR_BYTES
    weights = _weights_bytes(folder, options, width) + _adapter_bytes(request.adapters, width)
    if request.device.kind == "cpu":
        return MemoryEstimate(weights_bytes=weights, working_bytes=working + library)
    return MemoryEstimate(
        weights_bytes=weights, working_bytes=working, host_bytes=library + GPU_HOST_BYTES + GRAMMAR_BYTES
    )


def context_tokens(config: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Of one request: the option, and never more than the model has positions."""
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    wanted = int(options["context"])
    return min(wanted, positions) if isinstance(positions, int) and positions > 0 else wanted


def step_tokens(options: Mapping[str, Any], *, device: str) -> int:
    """Computed in one step at most. A client who leaves waits for the end of a step."""
    return int(options.get("batch") or (128 if device == "cpu" else 2048))


def _weights_bytes(folder: ModelFolder, options: Mapping[str, Any], width: int) -> int:
    """Embeddings and norms stay as they are when linear layers are quantized."""
    narrow = QUANTIZED_BYTES.get(str(options.get("quantization") or ""), width)
    total = 0.0
    for name, (kind, values) in folder.tensors().items():
        if kind in ("U8", "I8", "I32", "F8_E4M3", "F8_E5M2"):  # quantized on disk already
            total += values * (4 if kind == "I32" else 1)
        elif "embed" in name or "lm_head" in name or "norm" in name or name.endswith("bias"):
            total += values * width
        else:
            total += values * narrow
    return int(total)


def _adapter_bytes(adapters: Mapping[str, Path], width: int) -> int:
    return sum(
        values * width for path in adapters.values() for _, values in ModelFolder(path).tensors().values()
    )


def _cache_bytes_per_token(config: Mapping[str, Any], width: int) -> int:
    heads = _number(config, "num_attention_heads", "n_head", default=32)
    per_head = _number(config, "head_dim", default=_hidden(config) // heads)
    kept = _number(config, "num_key_value_heads", default=heads)
    return 2 * _number(config, "num_hidden_layers", "n_layer", default=32) * kept * per_head * width


def _step_bytes(config: Mapping[str, Any], request: LoadRequest, width: int) -> int:
    """Activations of the largest step, its attention mask and scores, and the scores over the vocabulary."""
    tokens = max(step_tokens(request.options, device=request.device.kind), int(request.options["parallel"]))
    inner = _number(config, "intermediate_size", "n_inner", default=4 * _hidden(config))
    cached = context_tokens(config, request.options) * int(request.options["parallel"])
    activations = tokens * (_hidden(config) + inner) * ACTIVATION_WIDTHS * width
    mask = tokens * cached * 2 * width
    vocabulary = _number(config, "vocab_size", default=32000)
    return activations + mask + int(request.options["parallel"]) * vocabulary * SCORE_BYTES


def _hidden(config: Mapping[str, Any]) -> int:
    return _number(config, "hidden_size", "n_embd", default=4096)


def _number(config: Mapping[str, Any], *names: str, default: int) -> int:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), default)
