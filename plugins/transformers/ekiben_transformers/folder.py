"""A causal language model's folder, judged before a library opens it.

Nothing here imports a library or runs anything of the folder. Refused is what would run code when it is
loaded: pickles, and classes that the folder brings itself.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed

PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
MAX_JSON_BYTES: Final = 64 * 2**20
_CAUSAL: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class ModelFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises LoadFailed, with what to do, for what cannot or must not be loaded."""
        if not self.path.is_dir():
            raise LoadFailed(f"{self.path.name!r} is not a folder: give the whole folder of the model")
        config = self.config()
        tokenizer = self.json("tokenizer_config.json")
        for name, found in (("config.json", config), ("tokenizer_config.json", tokenizer)):
            if found.get("auto_map"):
                raise LoadFailed(
                    f"the model brings code of its own ({name} has auto_map), which is never run: "
                    "choose a model whose classes are part of transformers"
                )
        self._check_architecture(config)
        if not self.weights():
            held = sorted(file.name for file in self.path.iterdir() if file.suffix.lower() in PICKLES)
            what = (
                f"only {held[0]!r}, a pickle, which can run code when it is opened" if held else "no weights"
            )
            raise LoadFailed(f"the folder {self.path.name!r} holds {what}: convert it to safetensors")

    def config(self) -> dict[str, Any]:
        """config.json, its text part where it describes several."""
        config = self.json("config.json")
        if not config:
            raise LoadFailed(f"the folder {self.path.name!r} has no config.json")
        text = config.get("text_config")
        return config | text if isinstance(text, dict) else config

    def weights(self) -> list[Path]:
        return sorted(self.path.glob("*.safetensors"))

    def tensors(self) -> dict[str, tuple[str, int]]:
        """Type and number of values of each tensor, from the files' headers. Raises LoadFailed."""
        return {name: entry for path in self.weights() for name, entry in read_header(path).items()}

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

    def _check_architecture(self, config: dict[str, Any]) -> None:
        kinds = [str(kind) for kind in config.get("architectures") or []]
        if kinds and not any(kind.endswith(_CAUSAL) for kind in kinds):
            raise LoadFailed(f"{kinds[0]} does not write text: give the folder of a causal language model")


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
