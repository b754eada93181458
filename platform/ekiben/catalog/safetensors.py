"""Whether a safetensors file is whole and honest, judged by its header alone.

The header of a safetensors file is trusted by loaders for offsets into the file: it is checked here
before a model is put into the catalog. No tensor data is read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from ekiben.errors import ConfigError

MAX_HEADER_BYTES: Final = 8 * 2**20
_DTYPE_BITS: Final = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6},
    **{"F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64},
}


def count_parameters(path: Path) -> int:
    """How many values the tensors of the file hold. Raises ConfigError when the file is not sound."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
                raise _Broken(f"its header claims {length} bytes, the file has {size_bytes}")
            tensors = _parse(file.read(length))
        return _check(tensors, data_bytes=size_bytes - 8 - length)
    except _Broken as error:
        raise ConfigError(f"broken safetensors file: {path}: {error}: fetch it again") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


class _Broken(Exception):
    pass


def _parse(header: bytes) -> dict[str, Any]:
    try:
        tensors = json.loads(header, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise _Broken("its header is not JSON") from None
    if not isinstance(tensors, dict):
        raise _Broken("its header is not a JSON object")
    tensors.pop("__metadata__", None)
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Broken("its header names a tensor twice")
    return found


def _check(tensors: dict[str, Any], *, data_bytes: int) -> int:
    """The tensors must fill the data without gap or overlap, each as long as its shape says."""
    parameters, reached = 0, 0
    spans = sorted((_span(name, tensor) for name, tensor in tensors.items()), key=lambda span: span[:2])
    for begin, end, values, name in spans:
        if begin != reached:
            raise _Broken(f"the tensor {name!r} begins at byte {begin}, the one before ends at {reached}")
        reached = end
        parameters += values
    if reached != data_bytes:
        raise _Broken(f"its tensors end at byte {reached}, its data at byte {data_bytes}")
    return parameters


def _span(name: str, tensor: object) -> tuple[int, int, int, str]:
    shown = name[:80]
    match tensor:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _Broken(f"the tensor {shown!r} lacks dtype, shape or data_offsets")
    if dtype not in _DTYPE_BITS:
        raise _Broken(f"the tensor {shown!r} has the unknown dtype {dtype[:40]!r}")
    if len(shape) > 16 or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise _Broken(f"the shape of the tensor {shown!r} is not one")
    values = math.prod(shape)
    if not 0 <= begin <= end or (end - begin) * 8 != values * _DTYPE_BITS[dtype]:
        raise _Broken(f"the tensor {shown!r} is not as long as its shape says")
    return begin, end, values, shown
