"""The number format to compute in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from ekiben.contract import LoadRequest
from ekiben_transformers.folder import ModelFolder

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def choose_dtype(folder: ModelFolder, request: LoadRequest) -> str:
    """What the option says; `auto`: the weights' own format, where the device computes in it quickly."""
    asked = str(request.options.get("dtype") or "auto")
    if asked != "auto":
        return asked
    kinds = {kind for kind, values in folder.tensors().values() if values > 1}
    own = "bfloat16" if "BF16" in kinds else "float16" if "F16" in kinds else "float32"
    if request.device.kind == "cpu" and own != "float32":
        return "bfloat16" if _cpu_has_bfloat16() else "float32"
    return own


@lru_cache(maxsize=1)
def _cpu_has_bfloat16() -> bool:
    """Without instructions for it, bfloat16 is several times slower than float32."""
    try:
        text = _CPU_INFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return bool(_BFLOAT16_FLAGS & set(next(lines, "").split()))
