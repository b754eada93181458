"""How much memory a model takes in vLLM, from its headers and the options of its spec.

vLLM is told how much to keep for keys and values, so that it takes what was reckoned here and not, as it
would, most of the device.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.contract import LoadFailed, LoadRequest, MemoryEstimate
from ekiben_vllm.folder import ModelFolder

MIB: Final = 2**20
DEFAULT_CONTEXT: Final = 8192
DEFAULT_FULL_REQUESTS: Final = 8
MAX_CPU_CACHE_BYTES: Final = 4096 * MIB
"""As large as the cache gets on a CPU by itself."""
BLOCK_TOKENS: Final = 128
"""Keys and values are kept in blocks; the largest that vLLM uses by itself."""

LIBRARY_BYTES: Final = 900 * MIB
"""What torch and vLLM hold by themselves, in two processes; measured."""
ENGINE_BYTES: Final = 500 * MIB
"""What the process that computes holds besides weights and cache; measured."""
GPU_CONTEXT_BYTES: Final = 1024 * MIB
"""What CUDA and its libraries take of a GPU for themselves, allowed for."""
GPU_GRAPH_BYTES: Final = 1024 * MIB
"""What captured graphs take, allowed for."""
GPU_HOST_BYTES: Final = 2048 * MIB
"""What they take of the host's memory for each device, allowed for."""
_CPU_STEP_TOKENS: Final = 2048
_GPU_STEP_TOKENS: Final = 8192
"""Tokens of prompts in one step where the spec says nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """What one model is given."""

    max_model_len: int
    kv_cache_bytes: int
    """Of each device."""


def room_of(folder: ModelFolder, request: LoadRequest) -> Room:
    """Raises LoadFailed where the options ask for more than the model can do, or leave it no room."""
    options = request.options
    trained = folder.context_tokens()
    tokens = options.get("max_model_len") or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if trained is not None and tokens > trained:
        raise LoadFailed(
            f"option 'max_model_len' is {tokens}, the model was trained for {trained}: choose at most that"
        )
    each = _request_bytes(folder, tokens, options)
    given = options.get("kv_cache_mb")
    if given is None:
        wanted = each * min(DEFAULT_FULL_REQUESTS, options["max_num_seqs"])
        if request.device.kind == "cpu":
            wanted = min(wanted, MAX_CPU_CACHE_BYTES)
        return Room(tokens, max(wanted, each))
    if given * MIB < each:
        raise LoadFailed(
            f"option 'kv_cache_mb' is {given}, one request of {tokens} tokens needs {-(-each // MIB)}: "
            "raise it, or lower 'max_model_len'"
        )
    return Room(tokens, given * MIB)


def estimate(folder: ModelFolder, request: LoadRequest) -> MemoryEstimate:
    """Of the first device; a model that is spread takes as much of each of the others."""
    options, devices = request.options, spread(request.options)
    room = room_of(folder, request)
    weights = folder.weights_bytes() // devices
    activations = _activation_bytes(folder, options, on_host=request.device.kind == "cpu") // devices
    library = 0 if "vllm" in sys.modules else LIBRARY_BYTES
    if request.device.kind == "cpu":
        working = room.kv_cache_bytes + activations + ENGINE_BYTES * devices + library
        return MemoryEstimate(weights_bytes=weights * devices, working_bytes=working)
    graphs = 0 if options.get("enforce_eager") else GPU_GRAPH_BYTES
    sleeping = weights * devices if request.device.kind == "cuda" and options["sleep"] else 0
    return MemoryEstimate(
        weights_bytes=weights,
        working_bytes=room.kv_cache_bytes + activations + GPU_CONTEXT_BYTES + graphs,
        host_bytes=library + GPU_HOST_BYTES * devices + sleeping,
    )


def spread(options: Mapping[str, Any]) -> int:
    """How many devices there are to be."""
    size: int = options["tensor_parallel_size"] * options["pipeline_parallel_size"]
    return size


def _request_bytes(folder: ModelFolder, tokens: int, options: Mapping[str, Any]) -> int:
    """Of the cache of one request, on each device; a block of it more, which vLLM keeps back."""
    tensor, pipeline = options["tensor_parallel_size"], options["pipeline_parallel_size"]
    width = 1 if options["kv_cache_dtype"] != "auto" else folder.width_bytes(options["dtype"])
    if (latent := folder.latent_size()) is not None:
        numbers = latent  # which each device keeps whole
    else:
        numbers = 2 * folder.head_size() * max(1, folder.kv_heads() // tensor)
    layers = -(-folder.layers() // pipeline)
    blocks = -(-tokens // BLOCK_TOKENS) + 1
    return int(blocks * BLOCK_TOKENS * layers * numbers * width)


def _activation_bytes(folder: ModelFolder, options: Mapping[str, Any], *, on_host: bool) -> int:
    """The widest tensors of one step, and the scores of every token that is sampled from."""
    step = options.get("max_num_batched_tokens") or (_CPU_STEP_TOKENS if on_host else _GPU_STEP_TOKENS)
    width = folder.width_bytes(options["dtype"])
    wide = step * (4 * folder.hidden_size() + 2 * folder.feed_forward_size()) * width
    scores = options["max_num_seqs"] * folder.vocabulary() * 4 * 2
    return int(wide + scores)
