"""Opening the pipeline with the library: number format, quantization, offloading, adapters.

Imports torch. Blocking, for a thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import constants as hub
from transformers.utils import logging as transformers_logging

from ekiben.contract import Device, LoadFailed, LoadRequest
from ekiben_diffusers.folder import PipelineFolder, read_header
from ekiben_diffusers.memory import choose_dtype

LORA_FILE: Final = "pytorch_lora_weights.safetensors"
LARGE_PARTS: Final = (
    "transformer",
    "transformer_2",
    "unet",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
)
"""What quantization is worth while for."""


def open_pipeline(folder: PipelineFolder, request: LoadRequest) -> Any:
    """The pipeline on its device, ready to compute. Raises LoadFailed."""
    if request.device.kind == "cpu":
        torch.set_num_threads(request.threads)
    _hush()
    try:
        with _offline():
            pipeline = DiffusionPipeline.from_pretrained(
                str(folder.path),
                dtype=getattr(torch, choose_dtype(folder, request)),
                variant=folder.variant,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                quantization_config=_quantization(folder, request),
            )
        request.report(0.6)
        _place(pipeline, request)
    except LoadFailed:
        raise
    except torch.OutOfMemoryError as error:
        raise LoadFailed(f"the pipeline does not fit on {request.device}: {error}") from error
    except Exception as error:
        raise LoadFailed(f"diffusers cannot load the pipeline: {_reason(error, folder.path)}") from error
    return pipeline


def load_adapters(pipeline: Any, adapters: Mapping[str, Path]) -> dict[str, str]:
    """What each adapter is called inside the pipeline. Raises LoadFailed."""
    inside = {}
    for number, (name, path) in enumerate(adapters.items()):
        file = _lora_file(path)
        read_header(file)
        inside[name] = f"adapter_{number}"  # in the library, a name may have no dot
        if not hasattr(pipeline, "load_lora_weights"):
            raise LoadFailed(f"{type(pipeline).__name__} takes no adapters: remove {name!r}")
        try:
            with _offline():
                pipeline.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=inside[name],
                    use_safetensors=True,
                    local_files_only=True,
                )
        except Exception as error:
            raise LoadFailed(f"the adapter {name!r} does not fit: {_reason(error, path)}") from error
    return inside


def _lora_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.safetensors"))
    named = [file for file in files if file.name == LORA_FILE] or files
    if len(named) != 1:
        raise LoadFailed(f"the adapter {path.name!r} is no single .safetensors file: give the path of one")
    return named[0]


def _place(pipeline: Any, request: LoadRequest) -> None:
    """Where its parts are computed, and how much memory that may take."""
    options, device = request.options, _torch_device(request.device)
    offload = options.get("offload") or "none"
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif request.device.kind != "cpu":
        pipeline.to(device)
    if hasattr(getattr(pipeline, "vae", None), "enable_slicing"):
        # A picture takes far more memory while it is decoded than while it is drawn: one after the other.
        pipeline.vae.enable_slicing()
    if options.get("attention_slicing"):
        pipeline.enable_attention_slicing()
    if options.get("vae_tiling"):
        if not hasattr(getattr(pipeline, "vae", None), "enable_tiling"):
            raise LoadFailed(
                f"{type(pipeline).__name__} has no VAE that works in tiles: leave vae_tiling out"
            )
        pipeline.vae.enable_tiling()


def _quantization(folder: PipelineFolder, request: LoadRequest) -> Any:
    """bitsandbytes on CUDA, torchao elsewhere. Raises LoadFailed when it is not installed."""
    bits = str(request.options.get("quantization") or "none")
    if bits == "none":
        return None
    from diffusers.quantizers import PipelineQuantizationConfig

    parts = [part for part in LARGE_PARTS if part in folder.parts()]
    if request.device.kind == "cuda":
        _require("bitsandbytes", bits)
        kwargs: dict[str, Any] = {"load_in_8bit": True}
        if bits == "int4":
            compute = getattr(torch, choose_dtype(folder, request))
            kwargs = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
        backend = "bitsandbytes_8bit" if bits == "int8" else "bitsandbytes_4bit"
        return PipelineQuantizationConfig(
            quant_backend=backend, quant_kwargs=kwargs, components_to_quantize=parts
        )
    _require("torchao", bits)
    return PipelineQuantizationConfig(quant_mapping=_torchao(bits, folder, parts))


def _torchao(bits: str, folder: PipelineFolder, parts: Sequence[str]) -> dict[str, Any]:
    """Each library has a class of its own for it."""
    from diffusers import TorchAoConfig as ForDiffusers
    from torchao.quantization import (  # type: ignore[import-not-found,unused-ignore]
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
    )
    from transformers import TorchAoConfig as ForTransformers

    kind = Int8WeightOnlyConfig() if bits == "int8" else Int4WeightOnlyConfig(group_size=32)
    return {
        part: ForTransformers(kind) if folder.parts()[part][0] == "transformers" else ForDiffusers(kind)
        for part in parts
    }


def _require(package: str, bits: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise LoadFailed(
            f"the option quantization: {bits} needs {package} here: pip install {package}, "
            "or leave the option out"
        )


def _torch_device(device: Device) -> str:
    """ROCm's devices are called cuda by torch."""
    return "cpu" if device.kind == "cpu" else f"cuda:{device.index}"


def _hush() -> None:
    """No bars on the log, and no advice to people who call the library themselves."""
    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _offline() -> Iterator[None]:
    """All that a pipeline needs is in its folder; one that names more elsewhere must fail, not fetch it."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _reason(error: Exception, path: Path) -> str:
    text = str(error).replace(str(path), path.name).strip() or type(error).__name__
    return text.splitlines()[0][:300]
