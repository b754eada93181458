"""The library's model with the numbers of a checkpoint, on its device. Imports torch; `build` blocks."""

from __future__ import annotations

import base64
import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
import whisper  # type: ignore[import-untyped]
from whisper.model import ModelDimensions, Whisper  # type: ignore[import-untyped]
from whisper.tokenizer import get_tokenizer  # type: ignore[import-untyped]

from ekiben.contract import Device, LoadFailed
from ekiben_whisper.weights import Checkpoint

_DRAWN: Final[tuple[Any, ...]] = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.Embedding,
    torch.nn.LayerNorm,
    torch.nn.Linear,
)
"""Kinds of modules that draw their numbers when they are made."""
_PRECISE: Final = (".positional_embedding", "_ln.weight", "_ln.bias", ".ln.weight", ".ln.bias")
"""Ends of names of what the library computes with in float32 on every device."""
_PRECISE_PART: Final = ".ln_post."


def _leave(module: torch.nn.Module) -> None:
    """Do not draw its numbers by lot."""


@contextmanager
def _no_numbers() -> Iterator[None]:
    """Parameters that are made are left as they are, so that they take no memory either.

    On torch's device without memory some could not be made, and others would have torch import its compilers.
    """
    given = {kind: kind.reset_parameters for kind in _DRAWN}
    try:
        for kind in _DRAWN:
            kind.reset_parameters = _leave
        yield
    finally:
        for kind, draw in given.items():
            kind.reset_parameters = draw


def build(checkpoint: Checkpoint, *, device: Device) -> Whisper:
    """float32 on the CPU, float16 on a GPU, as in the library. Raises LoadFailed."""
    # ROCm's devices are called cuda by torch.
    place = torch.device("cpu" if device.kind == "cpu" else f"cuda:{device.index}")
    try:
        state = {
            name: tensor.to(place, dtype(name, device), copy=True) for name, tensor in checkpoint.tensors()
        }
        with _no_numbers():
            model = Whisper(ModelDimensions(**asdict(checkpoint.dimensions)))
        model.load_state_dict(state, assign=True)
        _read_words(model)
        model.register_buffer("alignment_heads", _heads(checkpoint).to_sparse(), persistent=False)
        return model.requires_grad_(False).eval().to(place)
    except torch.OutOfMemoryError as error:
        raise LoadFailed(f"the model does not fit on {device}: {error}") from None


def dtype(name: str, device: Device) -> torch.dtype:
    """Of a tensor of the model."""
    precise = device.kind == "cpu" or name.endswith(_PRECISE) or _PRECISE_PART in name
    return torch.float32 if precise else torch.float16


def _read_words(model: Whisper) -> None:
    """The library reads its vocabulary when it is first needed, and forgets to close the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        get_tokenizer(model.is_multilingual, num_languages=model.num_languages)


def _heads(checkpoint: Checkpoint) -> torch.Tensor:
    """What the checkpoint says, else what the library knows of its name, else the upper layers."""
    dims = checkpoint.dimensions
    heads = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    if checkpoint.heads:
        for layer, head in checkpoint.heads:
            heads[layer, head] = True
        return heads
    if dump := whisper._ALIGNMENT_HEADS.get(checkpoint.path.stem):
        known = np.frombuffer(gzip.decompress(base64.b85decode(dump)), dtype=bool)
        if known.size == heads.numel():
            return torch.from_numpy(known.copy()).reshape(heads.shape)
    heads[dims.n_text_layer // 2 :] = True
    return heads
