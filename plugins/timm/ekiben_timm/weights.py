"""What a path holds that this engine can read, judged by its config and its header before a library opens it.

Knows no library. Refused is what would run code when it is loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed
from ekiben_timm.recipe import Recipe

MAX_JSON_BYTES: Final = 16 * 2**20
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
CHECKPOINTS: Final = frozenset({".pth", ".pt"})
_TAKEN: Final = "a folder with timm's config.json and model.safetensors, or a checkpoint (.pth)"
_NOT_ARGUMENTS: Final = frozenset(
    {"cache_dir", "checkpoint_path", "exportable", "features_only", "no_jit", "out_indices", "scriptable"}
)
"""Of the library's `create_model`: they would load other files, or make something else than a classifier."""
_NOT_FACTS: Final = frozenset(
    {"custom_load", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "url"}
)
"""Where the library would fetch weights from by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    file: Path
    architecture: str
    float32_bytes: int
    recipe: Recipe
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The library's `pretrained_cfg`, without what would be fetched."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the model's class."""
    names: tuple[str, ...] = ()
    """Of the classes, where the config has them."""

    @property
    def is_checkpoint(self) -> bool:
        return self.file.suffix in CHECKPOINTS


def look(path: Path, options: Mapping[str, Any]) -> Weights:
    """Reads the config and a header only. Raises LoadFailed."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if files:
            return _folder(path, files)
        checkpoints = sorted(file for file in path.iterdir() if file.suffix in CHECKPOINTS)
        if len(checkpoints) != 1:
            raise LoadFailed(
                f"{path.name!r} holds {len(checkpoints)} checkpoints and no safetensors: give {_TAKEN}"
            )
        path = checkpoints[0]
    if path.suffix not in CHECKPOINTS or not path.is_file():
        raise LoadFailed(f"{path.name!r} is nothing that this engine reads: give {_TAKEN}")
    return _checkpoint(path, options)


def _checkpoint(path: Path, options: Mapping[str, Any]) -> Weights:
    architecture = options.get("architecture")
    if not architecture:
        raise LoadFailed(
            f"{path.name!r} does not say what model it is of: name it with the option architecture, "
            "as tf_efficientnet_lite0"
        )
    # What the library knows of the architecture takes the place of these facts when it is loaded.
    return Weights(
        file=path, architecture=str(architecture), float32_bytes=path.stat().st_size, recipe=Recipe.of({})
    )


def _folder(folder: Path, files: list[Path]) -> Weights:
    config = _json(folder / "config.json")
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise LoadFailed(
            f"config.json of {folder.name!r} names no architecture of timm: folders of transformers are for "
            "the engine transformers"
        )
    if len(files) != 1:
        raise LoadFailed(f"{folder.name!r} holds {len(files)} safetensors files, and timm reads a single one")
    facts = _object(config, "pretrained_cfg")
    classes = config.get("num_classes", facts.get("num_classes", 1000))
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise LoadFailed(f"{architecture} in {folder.name!r} has no classes: it makes features of pictures")
    return Weights(
        file=files[0],
        architecture=architecture,
        float32_bytes=4 * _count(files[0]),
        recipe=Recipe.of(facts),
        facts={name: value for name, value in facts.items() if name not in _NOT_FACTS}
        | {"num_classes": classes},
        arguments=_arguments(config),
        names=_names(config, classes),
    )


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = _object(config, "model_args")
    for name in arguments:
        if name in _NOT_ARGUMENTS or name.startswith("pretrained"):
            raise LoadFailed(
                f"model_args in config.json has {name!r}, which is no measure of a model: remove it"
            )
    if pool := config.get("global_pool"):
        return {"global_pool": pool} | arguments
    return arguments


def _names(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """What the classes are called, described rather than by their short names."""
    short, long = config.get("label_names"), config.get("label_descriptions")
    if isinstance(short, list) and isinstance(long, dict):
        named = [str(long.get(name, name)) for name in short]
    else:
        named = [str(name) for name in next((one for one in (long, short) if isinstance(one, list)), [])]
    if named and len(named) != classes:
        raise LoadFailed(f"config.json names {len(named)} labels for {classes} classes")
    return tuple(named)


def _object(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise LoadFailed(f"{name} in config.json must be an object, not a {type(found).__name__}")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise LoadFailed(f"{path.name} is larger than any config")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LoadFailed(f"there is no {path.name} in {path.parent.name!r}: give {_TAKEN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{path.name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise LoadFailed(f"{path.name} must hold an object, not a {type(value).__name__}")
    return value


def _count(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header. Raises LoadFailed."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if max((int(entry["data_offsets"][1]) for entry in tensors), default=0) != size_bytes - 8 - length:
            raise ValueError("its tensors do not end where the file does")
        return sum(math.prod(map(int, entry["shape"])) for entry in tensors)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise LoadFailed(f"{path.name!r} is not a safetensors file: {error}") from None
