"""A pipeline's folder, judged before a library opens it.

Nothing here imports a library or runs anything of the folder. Refused is what would run code when it is
loaded: pickles, and classes that are not the libraries' own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed

INDEX: Final = "model_index.json"
PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
MAX_JSON_BYTES: Final = 64 * 2**20
HALF: Final = "fp16"
"""How files of 16-bit weights are marked in their names, beside or instead of those of 32 bits."""
_PARTLESS: Final = ("scheduler", "tokenizer", "feature_extractor", "image_processor", "processor")
"""Parts without weights, by the beginnings of their names."""

Tensors = Mapping[str, tuple[str, int]]


class PipelineFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises LoadFailed, with what to do, for what cannot or must not be loaded."""
        if not self.path.is_dir():
            raise LoadFailed(f"{self.path.name!r} is not a folder: give the whole folder of the pipeline")
        self.class_name()
        for part, (library, _) in self.parts().items():
            if not library.replace("_", "").isalnum() or (self.path / part / f"{library}.py").exists():
                raise LoadFailed(
                    f"the part {part!r} brings code of its own ({library[:80]!r}), which is never run: "
                    "choose a pipeline whose classes are part of diffusers or transformers"
                )
            if self._has_weights(part) and not self.weights(part):
                raise LoadFailed(self._missing(part))

    def class_name(self) -> str:
        """Of the pipeline. Raises LoadFailed."""
        name = self.index().get("_class_name")
        if isinstance(name, list):
            raise LoadFailed("the pipeline brings code of its own, which is never run: choose another one")
        if not isinstance(name, str):
            raise LoadFailed(f"{INDEX} does not name a pipeline")
        return name

    def index(self) -> dict[str, Any]:
        found = self.json(INDEX)
        if not found:
            raise LoadFailed(f"the folder {self.path.name!r} has no {INDEX}: it is no pipeline of diffusers")
        return found

    def parts(self) -> dict[str, tuple[str, str]]:
        """Library and class of each part that the pipeline has."""
        return {
            name: (str(entry[0]), str(entry[1]))
            for name, entry in self.index().items()
            if isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
        }

    @property
    def variant(self) -> str | None:
        """`fp16`, where the weights of a part are there in no other form."""
        for part in self.parts():
            files = self._files(part)
            if files and all(f".{HALF}" in file.name for file in files):
                return HALF
        return None

    def weights(self, part: str) -> list[Path]:
        """The files that are loaded of a part."""
        files = self._files(part)
        half = [file for file in files if f".{HALF}" in file.name]
        whole = [file for file in files if file not in half]
        return (half or whole) if self.variant == HALF else whole

    def tensors(self, part: str) -> Tensors:
        """Type and number of values of each, from the files' headers. Raises LoadFailed."""
        return {name: entry for path in self.weights(part) for name, entry in read_header(path).items()}

    def json(self, name: str) -> dict[str, Any]:
        """A file's object, empty when there is no such file. Raises LoadFailed."""
        path = self.path / name
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise LoadFailed(f"{name} is larger than any config")
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise LoadFailed(f"{name} cannot be read: {error}") from None
        if not isinstance(value, dict):
            raise LoadFailed(f"{name} must hold an object, not a {type(value).__name__}")
        return value

    def _files(self, part: str) -> list[Path]:
        return sorted((self.path / part).glob("*.safetensors"))

    def _has_weights(self, part: str) -> bool:
        return not part.startswith(_PARTLESS)

    def _missing(self, part: str) -> str:
        folder = self.path / part
        held = sorted(file.name for file in folder.glob("*") if file.suffix.lower() in PICKLES)
        if held:
            return (
                f"the part {part!r} holds only {held[0]!r}, a pickle, which can run code when it is opened: "
                "convert it to safetensors"
            )
        return f"the part {part!r} holds no weights: fetch the whole folder of the pipeline"


def read_header(path: Path) -> dict[str, tuple[str, int]]:
    """Type and number of values of each tensor. Raises LoadFailed when the file is not what it should be."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in tensors.values()]
        if max(ends, default=0) != size_bytes - 8 - length:
            raise ValueError("its tensors do not end where the file does")
        return {
            name: (str(entry["dtype"]), math.prod(map(int, entry["shape"])))
            for name, entry in tensors.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise LoadFailed(f"{path.name!r} is not a safetensors file: {error}") from None
