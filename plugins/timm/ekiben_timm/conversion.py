"""A checkpoint, which is a pickle, as a safetensors file with the library's names: made once, and kept.

Of the pickle no program is ever run: torch unpacks numbers only. A conversion lies in the model's cache, with
a name that other weights do not have; it is either not there or whole. Several replicas may make one at a
time: they are equal, and the last stays.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ekiben.contract import LoadFailed
from ekiben_timm.naming import renamed
from ekiben_timm.weights import Weights

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_FORM: Final = "1"
"""Of conversions; another one is made anew."""
_INSIDE: Final = ("state_dict", "model")
"""Where a checkpoint of a training has the tensors."""


def converted(weights: Weights, shapes: Shapes, cache: Path) -> Path:
    """Of an earlier load, or else made now. `shapes`: the model's, in order. Raises LoadFailed."""
    path = cache / f"timm-{_mark(weights)}.safetensors"
    if _is_whole(path, shapes):
        return path
    tensors = _fitting(_tensors(weights.file), shapes, weights)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as building:
            made = Path(building) / path.name
            save_file(tensors, made, metadata={"format": "pt"})
            with made.open("rb") as file:
                os.fsync(file.fileno())  # a name must not stand for what a crash has lost
            made.replace(path)
    except (OSError, SafetensorError) as error:
        raise LoadFailed(f"the weights cannot be converted in {cache}: {error}") from None
    return path


def _is_whole(path: Path, shapes: Shapes) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return False
    return found == dict(shapes)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """As they are named in the checkpoint."""
    _refuse_compressed(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise LoadFailed(
            f"{path.name!r} is a pickle that holds more than tensors, or is damaged: nothing of it was run; "
            "save its state_dict, or give the model in safetensors"
        ) from None
    except (RuntimeError, ValueError, TypeError, LookupError, EOFError, OSError, MemoryError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise LoadFailed(f"{path.name!r} cannot be loaded: {reason}") from None
    inside = [
        found[name] for name in _INSIDE if isinstance(found, dict) and isinstance(found.get(name), dict)
    ]
    state: Any = inside[0] if inside else found
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in state.items()
    ):
        raise LoadFailed(
            f"{path.name!r} is no table of tensors: give a state_dict, or a model in safetensors"
        )
    if sum(one.nbytes for one in state.values()) > path.stat().st_size:  # few bytes can claim to be many
        raise LoadFailed(f"{path.name!r} says that it holds more than its size: fetch the model again")
    return state


def _refuse_compressed(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise LoadFailed(f"{path.name!r} is compressed, which torch's checkpoints are not")
    except zipfile.BadZipFile:
        return  # torch's older format, or nothing that it reads
    except (OSError, NotImplementedError, ValueError) as error:
        raise LoadFailed(f"{path.name!r} cannot be read: {error}") from None


def _fitting(
    tensors: Mapping[str, torch.Tensor], shapes: Shapes, weights: Weights
) -> dict[str, torch.Tensor]:
    """By the library's names: all that the model has, in its shapes, and nothing else. Raises LoadFailed."""
    names = renamed(tensors, shapes)
    found = {names[name]: one for name, one in tensors.items()}
    wrong = [name for name in shapes if name not in found] + [name for name in found if name not in shapes]
    wrong = wrong or [name for name, one in found.items() if tuple(one.shape) != shapes[name]]
    if wrong or len(found) != len(tensors):
        raise LoadFailed(
            f"{weights.file.name!r} is not of {weights.architecture}: {len(wrong)} of {len(shapes)} tensors "
            f"do not fit, such as {', '.join(sorted(wrong)[:2])}; "
            "name the right model with the option architecture"
        )
    return {name: found[name].clone(memory_format=torch.contiguous_format) for name in shapes}


def _mark(weights: Weights) -> str:
    """Of this file as it is now, for this architecture."""
    stat = weights.file.stat()
    parts = [
        _FORM,
        weights.architecture,
        str(weights.file.resolve()),
        str(stat.st_size),
        str(stat.st_mtime_ns),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
