"""The process that runs a source plugin: `python -P -m ekiben.plugins.fetch_worker`.

A request comes as JSON on stdin, JSON lines go out on stdout: progress, then `done` or `error`. It holds
no state and cleans nothing up: it may be killed at any moment, and it dies with who started it. What the
plugin prints goes to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TextIO

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.delivery import space_message
from ekiben.contract.parent import die_with_parent
from ekiben.contract.source import FetchProgress, FetchRequest, Source
from ekiben.errors import FetchFailed
from ekiben.settings import process_environment

REPORT_EVERY_S: Final = 0.1
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """What the worker is told."""

    kind: str
    object: str
    """Of the source, as its manifest says."""
    parameters: Mapping[str, Any]
    folder: str
    progress_file: str
    """Where other processes that wait for the same weights look."""
    parent_pid: int


class Reporter:
    """Passes progress on, at most every `REPORT_EVERY_S`, as lines and in the progress file."""

    def __init__(self, out: TextIO, *, progress_file: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._out = out
        self._file = progress_file
        self._clock = clock
        self._last_s = -REPORT_EVERY_S
        self.latest: FetchProgress | None = None

    def __call__(self, progress: FetchProgress) -> None:
        complete = progress.done_bytes == progress.total_bytes
        changed_file = self.latest is None or self.latest.file != progress.file
        self.latest = progress
        now_s = self._clock.monotonic()
        if now_s - self._last_s < REPORT_EVERY_S and not complete and not changed_file:
            return
        self._last_s = now_s
        self.line({"progress": asdict(progress)})
        _write_whole(self._file, json.dumps(asdict(progress)))

    def line(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    @property
    def missing_bytes(self) -> int | None:
        """How much is still to come, if the source has said how much there is."""
        if self.latest is None or self.latest.total_bytes is None:
            return None
        return max(0, self.latest.total_bytes - self.latest.done_bytes)


def main() -> None:
    # Only this module writes the lines; a plugin's print, or its library's, lands on stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        request = WorkerRequest(**json.loads(sys.stdin.buffer.read()))
        die_with_parent(request.parent_pid)
        reporter = Reporter(out, progress_file=Path(request.progress_file))
        reporter.line(_run(request, reporter))


def _run(request: WorkerRequest, reporter: Reporter) -> dict[str, Any]:
    """The last line. Whatever a plugin does wrong ends here, as one sentence."""
    folder = Path(request.folder)
    try:
        result = _source(request.object).fetch(
            FetchRequest(
                parameters=request.parameters,
                folder=folder,
                environment=process_environment(),
                report=reporter,
            )
        )
        if not isinstance(result, Path):
            raise FetchFailed(f"the source {request.kind!r} returned {result!r} instead of a path")
        _sync(folder)
        return {"done": str(result)}
    except FetchFailed as error:
        return {"error": error.message}
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and somebody waits for the reason
        if _disk_is_full(error):
            return {"error": space_message(folder, needed_bytes=reporter.missing_bytes), "disk_full": True}
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        return {"error": f"the source {request.kind!r} failed: {reason}"}


def _source(text: str) -> Source:
    module_name, _, attribute = text.partition(":")
    make: Callable[[], Source] = getattr(import_module(module_name), attribute)
    return make()


def _sync(folder: Path) -> None:
    """Have the files on the disk, not only in its cache, before they are called complete."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _disk_is_full(error: BaseException | None) -> bool:
    """Libraries wrap the error of the system in their own; it is somewhere in the chain."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _write_whole(path: Path, text: str) -> None:
    """Replace the file in one step. Best effort: who waits in another process sees a little less."""
    partial = path.with_suffix(".new")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        sys.stderr.write(f"progress is not shown to others: {error}\n")


if __name__ == "__main__":
    main()
