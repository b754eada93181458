"""Whether a load failed for want of memory, which only its error tells, and each library in its own words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

_WORDS: Final = (
    "alloc_failed",  # cuBLAS
    "bad allocation",
    "bad_alloc",  # C++: CTranslate2, ONNX Runtime
    "can't allocate memory",  # torch
    "cannot allocate memory",  # the system
    "failed to allocate",  # llama.cpp, ONNX Runtime, MKL
    "failed to map segment",  # a library's code
    "insufficient memory",  # llama.cpp
    "not enough memory",  # torch
    "out of memory",  # CUDA, CTranslate2
    "unable to allocate",
)


def is_shortage(error: BaseException) -> bool:
    """Of the error, or of one that led to it."""
    return any(_tells(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tells(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _WORDS)
