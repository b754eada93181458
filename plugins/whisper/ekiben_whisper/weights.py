"""What a path holds that this engine can read, told by its names and headers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

from ekiben.contract import LoadFailed
from ekiben_whisper.conversion import ConvertibleFolder
from ekiben_whisper.mapped import MappedCheckpoint
from ekiben_whisper.pickled import PickledCheckpoint

Checkpoint: TypeAlias = MappedCheckpoint | PickledCheckpoint
_KINDS: Final[dict[str, type[Checkpoint]]] = {".pt": PickledCheckpoint, ".safetensors": MappedCheckpoint}
_TAKEN: Final = "OpenAI's NAME.pt, the same as .safetensors, or a CTranslate2 folder"


def look(path: Path) -> Checkpoint | ConvertibleFolder:
    """Reads headers only. Raises LoadFailed."""
    if not path.is_dir():
        return _checkpoint(path)
    if (path / "model.bin").is_file():
        return ConvertibleFolder(path)
    files = sorted(file for file in path.iterdir() if file.suffix in _KINDS)
    if len(files) != 1:
        raise LoadFailed(f"{path} holds {len(files)} checkpoints of Whisper: give {_TAKEN}")
    return _checkpoint(files[0])


def _checkpoint(path: Path) -> Checkpoint:
    kind = _KINDS.get(path.suffix)
    if kind is None or not path.is_file():
        raise LoadFailed(f"{path} is not a checkpoint of Whisper: give {_TAKEN}")
    return kind(path)
