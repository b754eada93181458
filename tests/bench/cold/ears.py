"""Whisper base in the forms that torch's engines take, made from what the catalog has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from ekiben_whisper.conversion import ConvertibleFolder
from tests.whisper_folder import convert


def checkpoint(source: Path, folder: Path) -> Path:
    """As OpenAI publishes it."""
    found = ConvertibleFolder(source).converted(folder)
    path = folder / "base.pt"
    torch.save({"dims": asdict(found.dimensions), "model_state_dict": dict(found.tensors())}, path)
    return path


def transformers_folder(source: Path, folder: Path) -> Path:
    return convert(source, folder / "whisper")
