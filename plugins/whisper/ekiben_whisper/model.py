"""The library's model with the numbers of a checkpoint, on its device. Imports torch; `build` blocks."""

from __future__ import annotations

import base64
import gzip
import warnings
from dataclasses import asdict
from typing import Final

import numpy as np
import torch
import whisper  # type: ignore[import-untyped]
from whisper.model import (  # type: ignore[import-untyped]
    AudioEncoder,
    ModelDimensions,
    TextDecoder,
    Whisper,
)
from whisper.tokenizer import get_tokenizer  # type: ignore[import-untyped]

from ekiben.contract import Device, LoadFailed
from ekiben_whisper.dimensions import Dimensions
from ekiben_whisper.weights import Checkpoint

_PRECISE: Final = (".positional_embedding", "_ln.weight", "_ln.bias", ".ln.weight", ".ln.bias")
"""Ends of names of what the library computes with in float32 on every device."""
_PRECISE_PART: Final = ".ln_post."


class _Hollow(Whisper):  # type: ignore[misc]
    """The library's model, without a number of its own: it would draw all of them by lot first."""

    def __init__(self, dims: Dimensions) -> None:
        torch.nn.Module.__init__(self)
        self.dims = ModelDimensions(**asdict(dims))
        with torch.device("meta"):
            self.encoder = AudioEncoder(
                dims.n_mels,
                dims.n_audio_ctx,
                dims.n_audio_state,
                dims.n_audio_head,
                dims.n_audio_layer,
            )
            self.decoder = TextDecoder(
                dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
            )
        size = dims.n_text_ctx
        self.decoder.mask = torch.full((size, size), -torch.inf).triu_(1)


def build(checkpoint: Checkpoint, *, device: Device) -> Whisper:
    """float32 on the CPU, float16 on a GPU, as in the library. Raises LoadFailed."""
    # ROCm's devices are called cuda by torch.
    place = torch.device("cpu" if device.kind == "cpu" else f"cuda:{device.index}")
    try:
        state = {
            name: tensor.to(place, dtype(name, device), copy=True) for name, tensor in checkpoint.tensors()
        }
        model = _Hollow(checkpoint.dimensions)
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
