"""Weights into the page cache while a process for them starts, so that its load finds them in memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def prefetch(weights: Path) -> None:
    """Have the kernel begin to read a file, or the files of a folder. May block for a moment.

    Only a hint: a file that cannot be read is left to the engine, which will say what is wrong.
    """
    try:
        files = [path for path in weights.rglob("*") if path.is_file()] if weights.is_dir() else [weights]
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError as error:
        logger.debug("%s cannot be prefetched: %s", weights, error)
