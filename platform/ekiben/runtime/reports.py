"""The pipe on which a replica tells the platform how far it is."""

from __future__ import annotations

import logging
import os

from ekiben.runtime.protocol import Report

logger = logging.getLogger(__name__)


class ReportPipe:
    """Writes reports, one a line. May be called from any thread: a line is written in one piece."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)

    def __call__(self, report: Report) -> None:
        try:
            os.write(self._fd, report.model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError as error:
            logger.warning("the platform does not hear reports: %s", error)
