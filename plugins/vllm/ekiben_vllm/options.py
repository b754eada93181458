"""The options of a spec as vLLM's own arguments, checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_vllm import formats
from ekiben_vllm.folder import ModelFolder, adapter_rank
from ekiben_vllm.memory import room_of, spread

LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""For which vLLM has kernels."""
_MODALITIES: Final = ("image", "audio", "video")
_PASSED: Final = (
    "dtype",
    "enable_prefix_caching",
    "kv_cache_dtype",
    "limit_mm_per_prompt",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
    "quantization",
    "seed",
    "tensor_parallel_size",
)
_GPU_SHARE: Final = 0.01
"""Not used, since the size of the cache is given; vLLM would refuse a GPU that has less left than this."""


def engine_arguments(folder: ModelFolder, request: LoadRequest) -> dict[str, Any]:
    """For `AsyncEngineArgs`. Raises LoadFailed."""
    options = request.options
    check(folder, request)
    room = room_of(folder, request)
    arguments = {name: options[name] for name in _PASSED if options.get(name) is not None}
    return arguments | {
        "model": str(request.weights),
        "served_model_name": [request.model.name],
        "max_model_len": room.max_model_len,
        "kv_cache_memory_bytes": room.kv_cache_bytes,
        "gpu_memory_utilization": _GPU_SHARE,
        "enforce_eager": options.get("enforce_eager", request.device.kind == "cpu"),
        "enable_sleep_mode": sleeps(request),
        "trust_remote_code": False,
        "load_format": "safetensors",
        "reasoning_parser": reasoning_parser(folder, options) or "",
        **_lora_arguments(request),
    }


def check(folder: ModelFolder, request: LoadRequest) -> None:
    """Raises LoadFailed for options that contradict each other, the model or the devices."""
    options = request.options
    tensor, pipeline = options["tensor_parallel_size"], options["pipeline_parallel_size"]
    if folder.heads() % tensor:
        raise LoadFailed(
            f"option 'tensor_parallel_size' is {tensor}, which does not divide the model's "
            f"{folder.heads()} attention heads"
        )
    if pipeline > folder.layers():
        raise LoadFailed(
            f"option 'pipeline_parallel_size' is {pipeline}, the model has {folder.layers()} layers"
        )
    if request.device.kind == "cpu" and spread(options) > 1:
        raise LoadFailed("a model is spread over several GPUs only: leave the parallel sizes at 1 on a CPU")
    if request.device.kind == "cpu" and options["kv_cache_dtype"] not in ("auto",):
        raise LoadFailed("option 'kv_cache_dtype' must be auto on a CPU")
    _check_modalities(options.get("limit_mm_per_prompt") or {})


def check_devices(request: LoadRequest) -> None:
    """Raises LoadFailed when there are not as many as the options ask for."""
    wanted, given = spread(request.options), len(request.devices)
    if wanted != given:
        raise LoadFailed(f"the parallel sizes ask for {wanted} devices, there are {given}: choose others")


def sleeps(request: LoadRequest) -> bool:
    """Whether the model may wait on the host: vLLM can do it on CUDA."""
    return request.device.kind == "cuda" and bool(request.options["sleep"])


def template_of(folder: ModelFolder, options: Mapping[str, Any]) -> str:
    """The one in use."""
    return options.get("chat_template") or folder.chat_template()


def tool_parser(folder: ModelFolder, options: Mapping[str, Any]) -> str:
    """Of the spec, or as the template shows."""
    return options.get("tool_call_parser") or formats.tool_parser(template_of(folder, options))


def reasoning_parser(folder: ModelFolder, options: Mapping[str, Any]) -> str | None:
    """As `tool_parser`; an empty option stands for none."""
    given: str | None = options.get("reasoning_parser")
    return given if given is not None else formats.reasoning_parser(template_of(folder, options))


def _lora_arguments(request: LoadRequest) -> dict[str, Any]:
    if not request.adapters:
        return {}
    largest = max(adapter_rank(name, path) for name, path in request.adapters.items())
    given = request.options.get("max_lora_rank")
    if given is not None and given < largest:
        raise LoadFailed(f"option 'max_lora_rank' is {given}, an adapter has rank {largest}: raise it")
    rank = given or next((rank for rank in LORA_RANKS if rank >= largest), None)
    if rank is None:
        raise LoadFailed(f"an adapter has rank {largest}, vLLM takes at most {LORA_RANKS[-1]}")
    count = len(request.adapters)
    return {"enable_lora": True, "max_lora_rank": rank, "max_loras": min(count, 8), "max_cpu_loras": count}


def _check_modalities(limits: Mapping[str, Any]) -> None:
    for name, limit in limits.items():
        if name not in _MODALITIES or type(limit) is not int or limit < 0:
            raise LoadFailed(
                f"option 'limit_mm_per_prompt' says {name}={limit!r}: it takes whole numbers of "
                f"{', '.join(_MODALITIES)}"
            )
