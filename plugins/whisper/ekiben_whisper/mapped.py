"""A checkpoint in safetensors: the library's names, with `dims` as JSON in the header's metadata.

`alignment_heads` may stand there too: pairs of a layer and one of its heads, which tell the times of words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from ekiben.contract import LoadFailed
from ekiben_whisper.dimensions import Dimensions

if TYPE_CHECKING:
    from torch import Tensor

_KINDS: Final = ("F16", "BF16", "F32")


class MappedCheckpoint:
    """Its header is judged at once, and against the file's size. Raises LoadFailed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened("numpy") as file:
            about = file.metadata() or {}
            self.dimensions = Dimensions.of(_json(about.get("dims"), path.name, kind=dict), name=path.name)
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            shapes = {name: tuple(one.get_shape()) for name, one in found.items()}
            kinds = {one.get_dtype() for one in found.values()}
        if shapes != self.dimensions.shapes():
            raise LoadFailed(f"{path.name} lacks tensors of the model that its dims describe, or has others")
        if not kinds <= set(_KINDS):
            raise LoadFailed(f"{path.name} holds {', '.join(sorted(kinds))}: {', '.join(_KINDS)} are known")
        self.heads = _heads(about.get("alignment_heads"), self.dimensions, name=path.name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """One at a time, as they are in the file."""
        with self._opened("pt") as file:
            for name in self.dimensions.shapes():
                yield name, file.get_tensor(name)

    def _opened(self, framework: str) -> Any:
        try:
            return safe_open(self.path, framework=framework)
        except (SafetensorError, OSError) as error:
            raise LoadFailed(f"{self.path.name} cannot be read: {error}") from None


def _heads(text: str | None, dimensions: Dimensions, *, name: str) -> list[tuple[int, int]] | None:
    if text is None:
        return None
    layers, heads = range(dimensions.n_text_layer), range(dimensions.n_text_head)
    found = []
    for pair in _json(text, name, kind=list):
        if not (isinstance(pair, list) and len(pair) == 2 and pair[0] in layers and pair[1] in heads):
            raise LoadFailed(f"{name} says alignment heads that the model does not have")
        found.append((pair[0], pair[1]))
    return found


def _json(text: str | None, name: str, *, kind: type[Any]) -> Any:
    if text is None:
        raise LoadFailed(
            f"{name} does not say its dims: write those of OpenAI's .pt file into the metadata of its header"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise LoadFailed(f"the metadata of {name} is not what it should be: {text[:80]!r}")
    return value
