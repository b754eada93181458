"""What of the library is loaded, and how: from safetensors files, without a net, and without foreign code.

Imports torch, so only `load` imports this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from huggingface_hub import constants as hub
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_sentence_transformers.backends import INT8, is_torch, on_backend
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.graphs import HIDDEN, LOGITS

M = TypeVar("M", bound=torch.nn.Module)


def open_embedder(folder: ModelFolder, request: LoadRequest) -> SentenceTransformer:
    """Raises LoadFailed, as all of them do."""
    with opening(folder):
        model = _ready(SentenceTransformer(str(folder.path), **_arguments(request)), folder, request)
        _set_max_length(model, request)
        return model


def open_judge(folder: ModelFolder, request: LoadRequest) -> CrossEncoder:
    """A model that reads a query and a document together."""
    with opening(folder):
        model: CrossEncoder = CrossEncoder(str(folder.path), **_arguments(request))
        model = _ready(model, folder, request)
        _set_max_length(model, request)
    if model.num_labels != 1:
        raise LoadFailed(
            f"the model has {model.num_labels} labels, and what ranks documents has one: "
            "if it is a classifier, its ability is moderate"
        )
    return model


def open_matcher(folder: ModelFolder, request: LoadRequest) -> Any:
    """A model that compares a query and a document token by token."""
    from sentence_transformers import MultiVectorEncoder

    with opening(folder):
        model = _ready(MultiVectorEncoder(str(folder.path), **_arguments(request)), folder, request)
        _set_max_length(model, request)
        return model


def open_classifier(folder: ModelFolder, request: LoadRequest) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    with opening(folder):
        path = str(folder.path)
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=_torch_dtype(request),
        )
        model = model.to(str(request.device)).eval()
        if not is_torch(request):
            return on_backend(model, tokenizer, folder, request, output=LOGITS), tokenizer
        return _shrunk(model, request), tokenizer


@contextmanager
def opening(folder: ModelFolder) -> Iterator[None]:
    """All that a model needs is in its folder; a config that names more elsewhere must fail, not fetch it."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    except LoadFailed:
        raise
    except Exception as error:
        reason = str(error).replace(str(folder.path), folder.path.name) or type(error).__name__
        raise LoadFailed(f"sentence-transformers cannot load the model: {reason.splitlines()[0]}") from error
    finally:
        hub.HF_HUB_OFFLINE = before


def _arguments(request: LoadRequest) -> dict[str, Any]:
    return {
        "device": str(request.device),
        "trust_remote_code": False,
        "local_files_only": True,
        "model_kwargs": {"use_safetensors": True, "dtype": _torch_dtype(request)},
    }


def _set_max_length(model: Any, request: LoadRequest) -> None:
    max_length = request.options.get("max_length")
    if max_length is None:
        return
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise LoadFailed(f"the option max_length is {max_length}, the model has {positions} positions")
    model.max_seq_length = max_length


def _torch_dtype(request: LoadRequest) -> torch.dtype:
    name = str(request.options["dtype"])
    dtype: torch.dtype = torch.float32 if name == INT8 else getattr(torch, name)
    return dtype


def _ready(model: M, folder: ModelFolder, request: LoadRequest) -> M:
    model.eval()
    if is_torch(request):
        return _shrunk(model, request)
    first: Any = next(model.children())
    way = first.modality_config.get("text", {}) if isinstance(first, Transformer) else {}
    if way.get("method") != "forward" or way.get("method_output_name") not in (HIDDEN, LOGITS):
        raise LoadFailed(
            f"the option backend: {request.options['backend']} is for models that read texts with a "
            "transformer: leave it out"
        )
    output = way["method_output_name"]
    first.model = on_backend(first.model, first.tokenizer, folder, request, output=output)
    return model


def _shrunk(model: M, request: LoadRequest) -> M:
    if request.options["dtype"] != INT8:
        return model
    if request.device.kind != "cpu":
        raise LoadFailed("the option dtype: int8 is for the CPU: choose float16 or bfloat16 on a GPU")
    with warnings.catch_warnings():  # torch would like its users to install one more package for this
        warnings.simplefilter("ignore")
        quantization: Any = torch.ao.quantization
        layers = {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}
        quantized: M = quantization.quantize_dynamic(model, layers, dtype=torch.qint8, inplace=True)
    return quantized
