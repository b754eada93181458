"""A sentence-transformers folder on disk, judged before a library opens it.

Nothing here imports a library or runs anything of the folder. Loading is refused where it would run
code: pickles, and modules that the folder brings itself.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ekiben.contract import LoadFailed

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""


class ModelFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises LoadFailed, with what to do, for what cannot or must not be loaded."""
        if not self.path.is_dir():
            raise LoadFailed(f"{self.path.name!r} is not a folder: give the whole folder of the model")
        for kind, _ in self._modules():
            if not kind.startswith(("sentence_transformers.", "pylate.models.")):
                raise LoadFailed(
                    f"the model brings code of its own ({kind!r}), which is never run: "
                    "choose a model whose modules are part of sentence-transformers"
                )
        for folder in self._module_folders():
            _refuse_pickles(folder)
        if not self.parameters():
            raise LoadFailed(f"the folder {self.path.name!r} holds no weights in .safetensors files")

    def parameters(self) -> int:
        """How many numbers the weights hold, from the files' headers. Raises LoadFailed."""
        return sum(_count_parameters(path) for path in self._weights())

    def hidden_size(self) -> int:
        """Width of the model's layers, or a common one where the config does not say."""
        return _number(self._json("config.json", {}).get("hidden_size"), default=1024)

    def max_length(self) -> int:
        """Tokens that are read of one input, or a common number where no config says."""
        positions = self._json("config.json", {}).get("max_position_embeddings")
        own = self._json("sentence_bert_config.json", {}).get("max_seq_length")
        return _number(own, default=_number(positions, default=512))

    def is_multi_vector(self) -> bool:
        """Whether it has a vector for each token, as the library saves such models, PyLate, or Stanford."""
        kind = self._json("config_sentence_transformers.json", {}).get("model_type")
        architectures = self._json("config.json", {}).get("architectures")
        return kind in ("MultiVectorEncoder", "ColBERT") or architectures == ["HF_ColBERT"]

    def picture_tokens(self) -> int | None:
        """How many patches of a picture the model looks at, where its config says so."""
        vision = self._json("config.json", {}).get("vision_config")
        if not isinstance(vision, dict):
            return None
        size, patch = vision.get("image_size"), vision.get("patch_size")
        if not isinstance(size, int) or not isinstance(patch, int) or not 0 < patch <= size:
            return None
        return (size // patch) ** 2 + 1

    def matryoshka_dimensions(self) -> frozenset[int] | None:
        """The shorter lengths that the config says the model was trained for; None: any."""
        config = self._json("config.json", {})
        listed = config.get("matryoshka_dimensions")
        if isinstance(listed, list):
            return frozenset(entry for entry in listed if isinstance(entry, int))
        return None if config.get("is_matryoshka") is True else frozenset()

    def _modules(self) -> list[tuple[str, PurePosixPath]]:
        """Type and folder of each module; none when the folder is a plain transformers model."""
        if not (self.path / "modules.json").exists() and not (self.path / "config.json").exists():
            raise LoadFailed(f"the folder {self.path.name!r} has neither modules.json nor config.json")
        modules = self._json("modules.json", [])
        try:
            found = [(str(module["type"]), PurePosixPath(module["path"])) for module in modules]
        except (TypeError, KeyError) as error:
            raise LoadFailed(f"modules.json is not a list of modules with type and path: {error}") from None
        for _, path in found:
            if path.is_absolute() or ".." in path.parts:
                raise LoadFailed(f"modules.json names {str(path)!r}, which is outside of the model's folder")
        return found

    def _module_folders(self) -> set[Path]:
        return {self.path} | {self.path / path for _, path in self._modules()}

    def _weights(self) -> list[Path]:
        return sorted(path for folder in self._module_folders() for path in folder.glob("*.safetensors"))

    def _json(self, name: str, default: Any) -> Any:
        try:
            value = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return default
        except (OSError, ValueError, RecursionError) as error:
            raise LoadFailed(f"{name} cannot be read: {error}") from None
        if not isinstance(value, type(default)):
            raise LoadFailed(f"{name} must hold a {type(default).__name__}, not a {type(value).__name__}")
        return value


def _number(value: object, *, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _refuse_pickles(folder: Path) -> None:
    """A pickle beside safetensors is left alone, since the library then never opens it."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLES:
            raise LoadFailed(
                f"{path.name!r} is a pickle, which can run code when it is opened: convert it to safetensors"
            )


def _count_parameters(path: Path) -> int:
    """Raises LoadFailed when the header is not what the format says."""
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        ends = [int(entry["data_offsets"][1]) for entry in tensors]
        if max(ends, default=0) != size_bytes - 8 - length:
            raise ValueError("its tensors do not end where the file does")
        return sum(math.prod(map(int, entry["shape"])) for entry in tensors)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise LoadFailed(f"{path.name!r} is not a safetensors file: {error}") from None
