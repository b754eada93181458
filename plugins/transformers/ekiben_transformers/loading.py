"""Opening the model with the library: number format, quantization, attention, adapters.

Imports torch. Blocking, for a thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants as hub
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ekiben.contract import Device, LoadFailed, LoadRequest
from ekiben_transformers.folder import ModelFolder


def open_tokenizer(folder: ModelFolder) -> Any:
    """Raises LoadFailed."""
    try:
        with offline():
            return AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise LoadFailed(f"the tokenizer cannot be loaded: {reason(error, folder)}") from error


def open_model(
    folder: ModelFolder,
    request: LoadRequest,
    *,
    dtype: str,
    kind: Any = AutoModelForCausalLM,
    attention: str | None = "sdpa",
) -> Any:
    """The model on its device, ready to compute. Raises LoadFailed.

    `kind`: the library's class for the task; `attention`: None leaves it to the library.
    """
    if request.device.kind == "cpu":
        torch.set_num_threads(request.threads)
    quantization = _quantization(request)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with offline():
            model = kind.from_pretrained(
                folder.path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                device_map=_device_map(request.device),
                quantization_config=quantization,
            )
    except torch.OutOfMemoryError as error:
        raise LoadFailed(f"the model does not fit on {request.device}: {error}") from error
    except Exception as error:
        raise LoadFailed(f"transformers cannot load the model: {reason(error, folder)}") from error
    return model.eval()


def _device_map(device: Device) -> dict[str, str] | None:
    """Straight to the GPU, without a copy on the host first. ROCm's devices are called cuda by torch."""
    return None if device.kind == "cpu" else {"": f"cuda:{device.index}"}


def _quantization(request: LoadRequest) -> Any:
    """bitsandbytes on CUDA, torchao elsewhere. Raises LoadFailed when it is not installed."""
    bits = str(request.options.get("quantization") or "none")
    if bits == "none":
        return None
    if request.device.kind == "cuda":
        _require("bitsandbytes", bits)
        from transformers import BitsAndBytesConfig

        if bits == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    if bits == "int4" and request.device.kind == "cpu":
        raise LoadFailed("quantization: int4 needs a GPU: use int8, or a GGUF model with llama_cpp")
    _require("torchao", bits)
    from torchao.quantization import (  # type: ignore[import-not-found,unused-ignore]
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
    )
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if bits == "int8" else Int4WeightOnlyConfig(group_size=32))


def _require(package: str, bits: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise LoadFailed(
            f"the option quantization: {bits} needs {package} here: pip install {package}, "
            "or leave the option out"
        )


@contextmanager
def offline() -> Iterator[None]:
    """All that a model needs is in its folder; a config that names more elsewhere must fail, not fetch it."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def reason(error: Exception, folder: ModelFolder) -> str:
    text = str(error).replace(str(folder.path), folder.path.name) or type(error).__name__
    return text.strip().splitlines()[0]
