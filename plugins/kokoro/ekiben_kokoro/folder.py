"""The files of a Kokoro model: a network, the numbers of its phonemes, and the styles of its voices.

Two layouts are known. Folders in the style of transformers have `onnx/model.onnx`, `tokenizer.json` and
`voices/NAME.bin` with bare numbers; the other has one .onnx file, a `config.json` with a `vocab`, and all
voices in one `voices….bin` or `.npz` archive of arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import LoadFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Styles = NDArray[np.float32]

STYLE: Final = 256
"""Numbers that make a style. A voice has one for each length of a text, in phonemes."""
MAX_VOICES: Final = 1000
MAX_JSON_BYTES: Final = 16 * 2**20
_NETWORKS: Final = ("onnx/model.onnx", "model.onnx", "onnx/model_*.onnx", "*.onnx")
"""Where the network is looked for; of several in one place the largest, which is the most exact."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found, by looking at names only."""

    path: Path
    network: Path

    @classmethod
    def find(cls, weights: Path) -> Folder:
        """Raises LoadFailed."""
        path = weights if weights.is_dir() else weights.parent
        for pattern in _NETWORKS:
            if found := sorted(path.glob(pattern), key=lambda file: file.stat().st_size):
                return cls(path, found[-1])
        raise LoadFailed(f"{path} has no .onnx file: a Kokoro model is a folder with one, and its voices")

    def phonemes(self) -> dict[str, int]:
        """The number of each phoneme. Raises LoadFailed."""
        for name, keys in (("tokenizer.json", ("model", "vocab")), ("config.json", ("vocab",))):
            value: Any = self._json(name)
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, Mapping) and value:
                return _checked(value, self.path / name)
        raise LoadFailed(
            f"{self.path} does not say which phoneme has which number: "
            "put the model's tokenizer.json, or a config.json with its vocab, beside it"
        )

    def voices(self) -> dict[str, Styles]:
        """By name, in order; shape (lengths, 256) each. Raises LoadFailed."""
        loose = sorted((self.path / "voices").glob("*.bin"))
        styles = {file.stem: _loose(file) for file in loose[:MAX_VOICES]} or self._archived()
        if not styles:
            raise LoadFailed(
                f"{self.path} has no voices: they are files voices/NAME.bin, or one archive voices….bin"
            )
        return styles

    def _archived(self) -> dict[str, Styles]:
        import numpy as np

        for file in sorted([*self.path.glob("voices*.bin"), *self.path.glob("voices*.npz")]):
            try:
                with np.load(file, allow_pickle=False) as archive:
                    return {name: _styles(archive[name], file) for name in sorted(archive.files)[:MAX_VOICES]}
            except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
                raise LoadFailed(f"{file} is not an archive of voices: {_one_line(error)}") from None
        return {}

    def _json(self, name: str) -> object:
        file = self.path / name
        if not file.is_file():
            return None
        try:
            if file.stat().st_size > MAX_JSON_BYTES:
                raise LoadFailed(f"{file} is larger than {MAX_JSON_BYTES} bytes")
            value: object = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise LoadFailed(f"{file} cannot be read: {_one_line(error)}") from None
        return value


def _checked(numbers: Mapping[str, Any], file: Path) -> dict[str, int]:
    if not all(isinstance(number, int) and 0 <= number < 2**31 for number in numbers.values()):
        raise LoadFailed(f"{file} gives phonemes numbers that are none")
    return dict(numbers)


def _loose(file: Path) -> Styles:
    import numpy as np

    if file.stat().st_size > 64 * 2**20:
        raise LoadFailed(f"{file} is too large for a voice")
    data = file.read_bytes()
    if not data or len(data) % (STYLE * 4):
        raise LoadFailed(f"{file} is not a voice: its size is no multiple of {STYLE * 4} bytes")
    return _styles(np.frombuffer(data, "<f4"), file)


def _styles(values: Any, file: Path) -> Styles:
    import numpy as np

    if not np.issubdtype(values.dtype, np.floating) or not values.size or values.size % STYLE:
        raise LoadFailed(f"{file} is not a voice: styles are {STYLE} numbers each")
    styles: Styles = np.ascontiguousarray(values.reshape(-1, STYLE), np.float32)
    return styles


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
