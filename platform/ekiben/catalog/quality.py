"""What the name of a quantization says: how close it comes to the original, and how much memory it takes.

Names are the makers' own (`Q4_K_M`, `fp8`, `awq`, `int8`), and so only as good as their habits: what is
not understood is not guessed.
"""

from __future__ import annotations

import re
from typing import Final

from ekiben.contract.model import Variant

_FULL_BITS: Final = 16.0
_FULL_FORMATS: Final = frozenset({"safetensors"})
"""Weights in these, without a word of quantization, are as their makers published them."""
_WORDS: Final = {
    **{"f32": 32.0, "fp32": 32.0, "float32": 32.0},
    **{"f16": 16.0, "fp16": 16.0, "float16": 16.0, "bf16": 16.0, "bfloat16": 16.0},
    **{"fp8": 8.0, "int8": 8.0, "8bit": 8.0, "w8a8": 8.0, "int8_float16": 8.0, "int8_float32": 8.0},
    **{"awq": 4.25, "gptq": 4.25, "nf4": 4.25, "fp4": 4.25, "int4": 4.25, "4bit": 4.25, "w4a16": 4.25},
    **{"mxfp4": 4.25, "nvfp4": 4.25},
}
_GGUF: Final = re.compile(r"(?P<kind>i?q|tq)(?P<bits>\d)(?P<variety>_\w+)?")
_VARIETIES: Final = {"_0": 0.5, "_1": 0.75, "_k_s": 0.6, "_k_m": 0.85, "_k_l": 0.95, "_k": 0.8}
_PARAMETERS: Final = re.compile(r"(?<![a-z0-9.])(?P<count>\d+(?:\.\d+)?)(?P<unit>[bm])(?![a-z0-9])")
_UNITS: Final = {"b": 1e9, "m": 1e6}


def plain(quantization: str) -> str:
    """The name as it is compared: clients write `Q4_K_M`, `q4-k-m` or `q4_k_m`."""
    return quantization.strip().lower().replace("-", "_")


def bits_of(variant: Variant) -> float | None:
    """Bits for each weight, about; None when the names do not tell."""
    if variant.quantization is None:
        return _FULL_BITS if variant.format in _FULL_FORMATS else None
    name = plain(variant.quantization)
    if name in _WORDS:
        return _WORDS[name]
    match = _GGUF.fullmatch(name)
    if match is None:
        return None
    variety = match["variety"] or ""
    return float(match["bits"]) + _VARIETIES.get(variety, 0.4)


def parameters_in(name: str) -> float | None:
    """How many weights a model's name says that it has: 7e9 in `mistral-7b-instruct`."""
    found = _PARAMETERS.findall(name.lower().replace("_", "-"))
    return None if len(found) != 1 else float(found[0][0]) * _UNITS[found[0][1]]
