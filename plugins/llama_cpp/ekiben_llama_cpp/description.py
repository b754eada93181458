"""A load as llama.cpp's own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ekiben.contract import Ability, Device, LoadFailed, LoadRequest
from ekiben.contract.gguf import GgufModel
from ekiben_llama_cpp.files import ModelFiles
from ekiben_llama_cpp.kept import keeps_prompts
from ekiben_llama_cpp.sizes import Sizes, is_for_vectors, sizes_of
from ekiben_llama_cpp.template import template_for

SPARE_THREADS: Final = 8
"""For requests that wait beyond those that are computed: each holds a thread of llama.cpp's server."""

_ALL_LAYERS: Final = 999
_ERRORS: Final = 1
_POOLINGS: Final = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""As `pooling_type` of a header numbers them."""


def describe(request: LoadRequest, files: ModelFiles, *, socket: str) -> Any:
    """Raises LoadFailed for what cannot be had."""
    from ekiben_llama_cpp.library import llama

    parameters = llama.CommonParams()
    sizes = sizes_of(request, files.model)
    _describe_model(parameters, request, files.model)
    _describe_sizes(parameters, request, sizes)
    _describe_service(parameters, request, sizes, socket=socket)
    _describe_devices(parameters, request)
    _describe_companions(parameters, request)
    if is_for_vectors(request):
        _describe_vectors(parameters, request, files.model, sizes)
    return parameters


def http_threads(sizes: Sizes) -> int:
    """Threads of llama.cpp's server; more requests than these wait on this side."""
    return 2 * sizes.parallel + SPARE_THREADS


def pooling_of(request: LoadRequest, model: GgufModel) -> str:
    """How one vector is made of a text. Raises LoadFailed where that is not what the model is there for."""
    own = _POOLINGS.get(model.metadata.get(f"{model.architecture}.pooling_type") or 0)
    given: str | None = request.options.get("pooling")
    if {Ability.EMBED, Ability.RERANK} <= request.model.abilities:
        raise LoadFailed("llama.cpp cannot embed and rerank with one model: name one of the two abilities")
    if Ability.RERANK in request.model.abilities:
        if given not in (None, "rank"):
            raise LoadFailed(f"a model that reranks has the pooling 'rank', not {given!r}: leave it out")
        return "rank"
    causal = model.metadata.get(f"{model.architecture}.attention.causal") is not False
    pooling = given or own or ("last" if causal else "mean")
    if pooling == "rank":
        raise LoadFailed("the model judges pairs of texts: give it the ability 'rerank' instead of 'embed'")
    return pooling


def _describe_model(parameters: Any, request: LoadRequest, model: GgufModel) -> None:
    from ekiben_llama_cpp.library import llama

    options = request.options
    parameters.model.path = str(request.weights)
    kind = getattr(llama.ggml_type, f"GGML_TYPE_{options['kv_cache'].upper()}")
    parameters.cache_type_k = parameters.cache_type_v = kind
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options["flash_attention"]]
    parameters.flash_attn_type = getattr(llama.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    parameters.chat_template = template_for(model, options.get("chat_template"))
    parameters.prefill_assistant = False  # a last message of the assistant is answered, not continued
    # Both would cost most of a cold start; what fits is decided before a replica is started.
    parameters.fit_params = False
    parameters.warmup = False


def _describe_sizes(parameters: Any, request: LoadRequest, sizes: Sizes) -> None:
    parameters.n_parallel = sizes.parallel
    # Not one pool for all: llama.cpp fails every running request when a shared pool overflows.
    parameters.kv_unified = False
    parameters.n_ctx = sizes.tokens
    parameters.n_ubatch = sizes.step
    parameters.n_batch = max(sizes.step, sizes.parallel * (1 + _guesses(request)))


def _describe_service(parameters: Any, request: LoadRequest, sizes: Sizes, *, socket: str) -> None:
    parameters.hostnames = [socket]
    parameters.model_alias = {request.model.name}
    parameters.n_threads_http = http_threads(sizes)
    # Prompts that are kept there do not say with which adapter they were computed.
    parameters.cache_ram_mib = 0 if request.adapters else request.options["prompt_cache_mb"]
    parameters.sse_ping_interval = -1
    parameters.verbosity = _ERRORS
    parameters.ui = False
    parameters.endpoint_slots = True  # tells when the loop has begun to turn
    parameters.endpoint_props = False
    parameters.endpoint_metrics = False
    parameters.cors_origins = ""
    if keeps_prompts(request):
        parameters.slot_save_path = f"{request.cache}/"
    # What it takes for a film it would give to ffmpeg, if it found one.
    parameters.video_ffmpeg_bin_dir = str(request.scratch)


def _describe_devices(parameters: Any, request: LoadRequest) -> None:
    from ekiben_llama_cpp.library import llama

    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = request.threads
    if request.device.kind == "cpu":
        parameters.n_gpu_layers = 0
        return
    _require_gpus(request.devices)
    parameters.n_gpu_layers = request.options.get("gpu_layers", _ALL_LAYERS)
    parameters.main_gpu = request.device.index
    if len(request.devices) == 1:
        # Otherwise it would take its share of every GPU that it can see.
        parameters.split_mode = llama.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    else:
        mode = request.options["split_mode"].upper()
        parameters.split_mode = getattr(llama.llama_split_mode, f"LLAMA_SPLIT_MODE_{mode}")
        parameters.tensor_split = tensor_split(request, places=len(parameters.tensor_split))


def tensor_split(request: LoadRequest, *, places: int) -> list[float]:
    """For each GPU that llama.cpp knows, its part of the model. Raises LoadFailed."""
    shares: Sequence[float] = request.options.get("tensor_split") or [1] * len(request.devices)
    if len(shares) != len(request.devices) or not all(_is_share(share) for share in shares):
        raise LoadFailed(
            f"'tensor_split' is {list(shares)}, and there are {len(request.devices)} GPUs: "
            "give a positive number for each"
        )
    split = [0.0] * places
    for device, share in zip(request.devices, shares, strict=True):
        split[device.index] = float(share)
    return split


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _require_gpus(devices: Sequence[Device]) -> None:
    from ekiben_llama_cpp.library import llama

    found = sum("GPU" in device["type"].name for device in llama.get_device_info())
    if not found:
        raise LoadFailed(
            f"the installed xllamacpp has no support for {devices[0].kind}: "
            "install a build for it, or use device cpu"
        )
    if found < len(devices):
        raise LoadFailed(f"the model is to be spread over {len(devices)} GPUs, and llama.cpp finds {found}")


def _describe_companions(parameters: Any, request: LoadRequest) -> None:
    from ekiben_llama_cpp.library import llama

    if (projector := request.companions.get("mmproj")) is not None:
        parameters.mmproj.path = str(projector)
        parameters.mmproj_use_gpu = request.device.kind != "cpu"
    if (draft := request.companions.get("draft")) is not None:
        _describe_draft(parameters, request, str(draft))
    adapters = []
    for path in request.adapters.values():
        adapter = llama.CommonAdapterLoraInfo()
        adapter.path = str(path)
        adapter.scale = 0.0  # each request says which one it wants
        adapters.append(adapter)
    parameters.lora_adapters = adapters


def _describe_draft(parameters: Any, request: LoadRequest, path: str) -> None:
    from ekiben_llama_cpp.library import llama

    speculative = parameters.speculative
    speculative.types = [llama.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    draft = speculative.draft
    draft.mparams.path = path
    draft.n_max = _guesses(request)
    draft.p_min = request.options.get("draft_probability", 0.0)
    draft.n_gpu_layers = 0 if request.device.kind == "cpu" else _ALL_LAYERS
    for threads in (draft.cpuparams, draft.cpuparams_batch):
        threads.n_threads = request.threads


_GUESSES: Final = 3


def _guesses(request: LoadRequest) -> int:
    """Tokens that are guessed ahead for each request."""
    if "draft" not in request.companions:
        return 0
    count: int = request.options.get("draft_tokens", _GUESSES)
    return count


def _describe_vectors(parameters: Any, request: LoadRequest, model: GgufModel, sizes: Sizes) -> None:
    from ekiben_llama_cpp.library import llama

    parameters.embedding = True
    pooling = pooling_of(request, model).upper()
    parameters.pooling_type = getattr(llama.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
    parameters.n_batch = sizes.step
