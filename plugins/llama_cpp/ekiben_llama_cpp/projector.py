"""What a projector's header must say so that llama.cpp can compute with it.

llama.cpp believes it when it loads, and divides by it when the first picture or sound comes: that ends the
process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import LoadFailed

_POSITIVE: Final = (
    "vision.image_size",
    "vision.patch_size",
    "vision.embedding_length",
    "vision.attention.head_count",
    "vision.projector.scale_factor",
    "audio.num_mel_bins",
    "audio.embedding_length",
    "audio.attention.head_count",
    "audio.projector.stack_factor",
)
_MOST: Final = 2**20
"""Far above what any model has."""
_PARTS: Final = (
    ("vision.embedding_length", "vision.attention.head_count"),
    ("audio.embedding_length", "audio.attention.head_count"),
)


def check_projector(header: Mapping[str, Any], name: str) -> None:
    """Raises LoadFailed. What the header leaves out is llama.cpp's to judge."""
    said = {key: header[f"clip.{key}"] for key in _POSITIVE if f"clip.{key}" in header}
    for key, value in said.items():
        if not isinstance(value, int) or not 0 < value <= _MOST:
            raise LoadFailed(f"the projector {name!r} says that clip.{key} is {value!r}: choose another file")
    for whole, part in _PARTS:
        if whole in said and part in said and said[whole] % said[part]:
            raise LoadFailed(
                f"the projector {name!r} divides clip.{whole} {said[whole]} by clip.{part} {said[part]}, "
                "which leaves a rest: choose another file"
            )
    if said.get("vision.patch_size", 0) > said.get("vision.image_size", _MOST):
        raise LoadFailed(f"the projector {name!r} has patches larger than its pictures: choose another file")
