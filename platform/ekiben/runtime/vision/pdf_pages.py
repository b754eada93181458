"""The pages of a PDF file as pictures: `python -m ekiben.runtime.vision.pdf_pages FILE FIRST LAST`.

A program of its own, since a hostile file may hang or crash what reads it: it has bounds of memory and time,
and dies alone. Its output is one line of JSON, `{"pages": N}` or `{"error": …}`; then for each page asked for
a length of four bytes and a PNG. It goes no further than its reader takes.
"""

from __future__ import annotations

import ctypes
import io
import json
import resource
import signal
import sys
from typing import Any, BinaryIO, Final

DOTS_PER_INCH: Final = 200
MAX_SIDE: Final = 2400
"""In pixels; larger pages are drawn at this size."""
MAX_MEMORY_BYTES: Final = 2 * 2**30
MAX_CPU_S: Final = 600
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pypdfium2  # type: ignore[import-untyped]

    out = sys.stdout.buffer
    try:
        document = pypdfium2.PdfDocument(path)
        count = len(document)
    except pypdfium2.PdfiumError:
        _tell(out, {"error": "is broken, or opens with a password only"})
        return
    _tell(out, {"pages": count})
    for number in range(first, min(last, count) + 1):
        png = _drawn(document[number - 1])
        out.write(len(png).to_bytes(4, "big") + png)
        out.flush()


def _tell(out: BinaryIO, what: dict[str, Any]) -> None:
    out.write(json.dumps(what).encode() + b"\n")
    out.flush()


def _drawn(page: Any) -> bytes:
    scale = min(DOTS_PER_INCH / 72, MAX_SIDE / max(*page.get_size(), 1))
    png = io.BytesIO()
    page.render(scale=scale).to_pil().convert("RGB").save(png, "PNG", compress_level=1)
    page.close()
    return png.getvalue()


if __name__ == "__main__":
    main()
