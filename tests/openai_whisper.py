"""OpenAI's Whisper in small: checkpoints of random numbers, and the engine with one of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch
import whisper  # type: ignore[import-untyped]

from ekiben.contract import Ability, Engine, ModelSpec, testing
from ekiben_whisper.engine import Whisper

ENGINE: Engine = Whisper()
OPTIONS = {"beam_size": 1, "batch_size": 4, "max_duration_s": 600}
SMALL = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 16,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 2,
}


def order(path: Path, scratch: Path, **options: Any) -> Any:
    variant = {"format": "whisper", "engine": "whisper", "source": {"kind": "local", "path": "/x"}}
    spec = ModelSpec.model_validate(
        {"name": "ear", "family": "audio", "abilities": ["transcribe", "translate"], "variants": [variant]}
    )
    return testing.load_request(spec, path, scratch=scratch, options=OPTIONS | options)


def load(path: Path, scratch: Path, **options: Any) -> Any:
    """The listener of a model."""
    loaded: Any = asyncio.run(ENGINE.load(order(path, scratch, **options)))
    return loaded.batching[Ability.TRANSCRIBE]


def drawn(path: Path, dims: dict[str, int]) -> Path:
    """Random numbers, as OpenAI writes theirs down."""
    torch.manual_seed(7)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(**dims))
    torch.nn.init.normal_(model.decoder.positional_embedding)
    torch.save({"dims": dims, "model_state_dict": model.half().state_dict()}, path)
    return path
