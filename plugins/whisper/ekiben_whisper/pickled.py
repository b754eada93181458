"""A checkpoint as OpenAI publishes it: NAME.pt, a zip with a pickle, of which no program is ever run.

Its measures are read from the pickle's bytes alone; torch unpacks numbers only, with `weights_only`.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import LoadFailed
from ekiben_whisper.dimensions import Dimensions

if TYPE_CHECKING:
    from torch import Tensor

_MAX_PICKLE_BYTES: Final = 16 * 2**20
"""Of names and shapes, without the numbers."""
_BETWEEN: Final = ("BINPUT", "LONG_BINPUT", "MEMOIZE", "PUT")
"""What a pickle may have between a name and its value."""


class PickledCheckpoint:
    """Its measures are judged at once. Raises LoadFailed."""

    heads: list[tuple[int, int]] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dimensions = Dimensions.of(_named_numbers(_pickle(path), name=path.name), name=path.name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All are judged before the first is given. Raises LoadFailed."""
        import torch

        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, OSError) as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise LoadFailed(f"{self.path.name} cannot be loaded: {reason}") from None
        state = found.get("model_state_dict") if isinstance(found, dict) else None
        if not isinstance(state, dict):
            raise LoadFailed(f"{self.path.name} has no model_state_dict: it is not a Whisper model of OpenAI")
        self._check(state)
        yield from state.items()

    def _check(self, state: Mapping[Any, Any]) -> None:
        """Few bytes can claim to be a great many numbers."""
        import torch

        floats = (torch.float16, torch.bfloat16, torch.float32)
        whole = all(
            isinstance(one, torch.Tensor) and one.dtype in floats and one.is_contiguous()
            for one in state.values()
        )
        if not whole or {name: tuple(one.shape) for name, one in state.items()} != self.dimensions.shapes():
            raise LoadFailed(
                f"{self.path.name} lacks tensors of the model that its dims describe, or has others"
            )
        if sum(one.nbytes for one in state.values()) > self.path.stat().st_size:
            raise LoadFailed(f"{self.path.name} says that it holds more than its size: fetch the model again")


def _pickle(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise LoadFailed(f"{path.name} is compressed, which torch's checkpoints are not")
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise LoadFailed(f"{path.name} is a zip, and not one of torch's checkpoints")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError):
        raise LoadFailed(
            f"{path.name} is not a checkpoint that torch has written, or is not whole: fetch the model again"
        ) from None


def _named_numbers(content: bytes, *, name: str) -> dict[str, object]:
    """Whole numbers that stand after a text. Looks at the pickle, and does not run it."""
    found: dict[str, object] = {}
    text: str | None = None
    try:
        for code, value, _ in pickletools.genops(content):
            if code.name in _BETWEEN:
                continue
            if text is not None and isinstance(value, int) and "INT" in code.name:
                found.setdefault(text, value)
            text = value if isinstance(value, str) and "UNICODE" in code.name else None
    except (ValueError, OverflowError, IndexError):
        raise LoadFailed(f"{name} holds a pickle that is damaged: fetch the model again") from None
    return found
