"""A CTranslate2 folder as a checkpoint with the library's names: made once, and kept.

A conversion lies in the model's cache, under a name that other weights do not have; it is either not there or
whole. Several replicas may make one at a time: they are equal, and the last stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

from ekiben.contract import LoadFailed
from ekiben_whisper.dimensions import Dimensions, Shape
from ekiben_whisper.mapped import MappedCheckpoint
from ekiben_whisper.variables import Variable, variables

FILES: Final = ("model.bin", "config.json")
_FORM: Final = "1"
"""Of conversions; another one is made anew."""
_KINDS: Final = {0: "F32", 4: "F16", 5: "BF16"}
_MAX_CONFIG_BYTES: Final = 2**20

_SELF, _CROSS = "self_attention", "attention"
_OF_BLOCKS: Final[Mapping[str, tuple[str, int, int]]] = {
    "attn.query": (f"{_SELF}/linear_0", 0, 3),
    "attn.key": (f"{_SELF}/linear_0", 1, 3),
    "attn.value": (f"{_SELF}/linear_0", 2, 3),
    "attn.out": (f"{_SELF}/linear_1", 0, 1),
    "attn_ln": (f"{_SELF}/layer_norm", 0, 1),
    "cross_attn.query": (f"{_CROSS}/linear_0", 0, 1),
    "cross_attn.key": (f"{_CROSS}/linear_1", 0, 2),
    "cross_attn.value": (f"{_CROSS}/linear_1", 1, 2),
    "cross_attn.out": (f"{_CROSS}/linear_2", 0, 1),
    "cross_attn_ln": (f"{_CROSS}/layer_norm", 0, 1),
    "mlp_ln": ("ffn/layer_norm", 0, 1),
    "mlp.0": ("ffn/linear_0", 0, 1),
    "mlp.2": ("ffn/linear_1", 0, 1),
}
"""Where a block's tensors are: the variable, which part of it, and of how many."""
_OF_MODELS: Final = {
    "encoder.conv1": "encoder/conv1",
    "encoder.conv2": "encoder/conv2",
    "encoder.ln_post": "encoder/layer_norm",
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "decoder.ln": "decoder/layer_norm",
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "decoder.token_embedding": "decoder/embeddings",
}


class ConvertibleFolder:
    """Its headers are judged at once. Raises LoadFailed."""

    def __init__(self, path: Path) -> None:
        missing = [name for name in FILES if not (path / name).is_file()]
        if missing:
            raise LoadFailed(f"{path} lacks {', '.join(missing)}: is it a CTranslate2 Whisper model?")
        self._path = path
        self._variables = variables(path / "model.bin")
        self.dimensions = self._dimensions()

    def converted(self, cache: Path) -> MappedCheckpoint:
        """Of an earlier load, or else made now."""
        path = cache / f"whisper-{self._mark()}.safetensors"
        with suppress(LoadFailed):  # not there, or broken
            return MappedCheckpoint(path)
        pieces = {name: self._piece(name, shape) for name, shape in self.dimensions.shapes().items()}
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as building:
                made = Path(building) / path.name
                with made.open("wb") as file:
                    _write(file, pieces, about=self._about())
                made.replace(path)
        except OSError as error:
            raise LoadFailed(f"the weights cannot be converted in {cache}: {error.strerror}") from None
        return MappedCheckpoint(path)

    def _dimensions(self) -> Dimensions:
        conv, words = self._shape("encoder/conv1/weight", 3), self._shape("decoder/embeddings/weight", 2)
        values = {"n_mels": conv[1], "n_vocab": words[0]}
        for side, key in (("encoder", "audio"), ("decoder", "text")):
            positions = self._shape(f"{side}/position_encodings/encodings", 2)
            heads = self._variables.get(f"{side}/num_heads")
            layers = {
                parts[1]
                for parts in (name.split("/") for name in self._variables)
                if parts[0] == side and parts[1].removeprefix("layer_").isdecimal()
            }
            values |= {
                f"n_{key}_ctx": positions[0],
                f"n_{key}_state": positions[1],
                f"n_{key}_head": 0 if heads is None else int.from_bytes(heads.content[:4], "little"),
                f"n_{key}_layer": len(layers),
            }
        return Dimensions.of(values, name="model.bin")

    def _shape(self, name: str, rank: int) -> Shape:
        found = self._variables.get(name)
        if found is None or len(found.shape) != rank:
            raise LoadFailed(f"model.bin has no {name} of {rank} dimensions: it is not a whole Whisper model")
        return found.shape

    def _piece(self, name: str, shape: Shape) -> Variable:
        variable, part, parts = _place(name)
        found = self._variables.get(variable)
        if found is None or found.shape != (parts * shape[0], *shape[1:]):
            raise LoadFailed(f"model.bin has no {variable} of the size that {name} needs")
        if found.kind not in _KINDS:
            raise LoadFailed(
                "model.bin is quantized to whole numbers, which only CTranslate2 computes with: give one in "
                "float16 or float32, or run it with faster_whisper"
            )
        size = len(found.content) // parts
        return Variable(found.kind, shape, found.content[part * size : (part + 1) * size])

    def _about(self) -> dict[str, str]:
        """What stands in the header besides the tensors."""
        about = {"dims": json.dumps(asdict(self.dimensions))}
        with (self._path / "config.json").open("rb") as file:
            try:
                config = json.loads(file.read(_MAX_CONFIG_BYTES))
            except (ValueError, RecursionError):
                raise LoadFailed(f"{self._path / 'config.json'} is not JSON: fetch the model again") from None
        heads = config.get("alignment_heads") if isinstance(config, dict) else None
        return about | ({"alignment_heads": json.dumps(heads)} if heads else {})

    def _mark(self) -> str:
        """Of these files as they are now."""
        parts = [_FORM, str(self._path.resolve())]
        for name in FILES:
            stat = (self._path / name).stat()
            parts.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _place(name: str) -> tuple[str, int, int]:
    """The variable that a tensor is in, which part of it, and of how many."""
    if name.endswith("positional_embedding"):
        return _OF_MODELS[name], 0, 1
    stem, _, kind = name.rpartition(".")
    part, parts = 0, 1
    if ".blocks." in stem:
        side, _, layer, inner = stem.split(".", 3)
        variable, part, parts = _OF_BLOCKS[inner]
        variable = f"{side}/layer_{layer}/{variable}"
    else:
        variable = _OF_MODELS[stem]
    if variable.endswith("layer_norm"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    return f"{variable}/{kind}", part, parts


def _write(file: BinaryIO, pieces: Mapping[str, Variable], *, about: Mapping[str, str]) -> None:
    """As safetensors: a header, and the contents one after the other, from page to page."""
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, piece in pieces.items():
        begin, end = end, end + len(piece.content)
        header[name] = {
            "dtype": _KINDS[piece.kind],
            "shape": list(piece.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    contents: list[bytes | memoryview[int]] = [len(text).to_bytes(8, "little"), text]
    for content in contents + [piece.content for piece in pieces.values()]:
        file.write(content)
    file.flush()
    os.fsync(file.fileno())  # a name must not stand for what a crash has lost
