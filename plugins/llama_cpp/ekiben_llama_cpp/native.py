"""llama.cpp's own server, inside this process and on a socket that only this process's user can reach.

Starting and stopping block: call them on a thread. llama.cpp writes what it has to say to the standard
error stream, past Python.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_llama_cpp.description import describe
from ekiben_llama_cpp.files import ModelFiles

_LONGEST_SOCKET_PATH: Final = 107
_LOG_WAIT_S: Final = 0.02
_LOG_TRIES: Final = 15
_ERROR_LINE: Final = re.compile(r"^\S+ E +\S+: (?P<text>.+)$", re.MULTILINE)


class NativeServer:
    """A loaded model and the socket on which it answers."""

    def __init__(self, request: LoadRequest, files: ModelFiles) -> None:
        """Load. Blocking, without the interpreter's lock; raises LoadFailed."""
        from ekiben_llama_cpp.library import llama

        self._folder = os.open(request.scratch, os.O_RDONLY | os.O_DIRECTORY)
        self.socket = _socket_path(request.scratch, self._folder)
        log = _NativeLog()
        try:
            self._server: Any = llama.Server(describe(request, files, socket=self.socket))
        except LoadFailed:
            os.close(self._folder)
            raise
        except RuntimeError as error:
            os.close(self._folder)
            reason = log.first_error() or f"{' '.join(str(error).split())} (its log says more)"
            raise LoadFailed(f"llama.cpp cannot load {request.weights.name!r}: {reason}") from None

    def stop(self) -> None:
        """Free the model. Blocking."""
        self._server = None
        Path(self.socket).unlink(missing_ok=True)
        os.close(self._folder)


def _socket_path(folder: Path, descriptor: int) -> str:
    """Socket paths are short by law; a folder that lies deep is reached through its descriptor."""
    path = str(folder / "llama.sock")
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    return f"/proc/self/fd/{descriptor}/llama.sock"


class _NativeLog:
    """What llama.cpp writes to the standard error stream from now on, where that is a file."""

    def __init__(self) -> None:
        self._start = self._size()

    def first_error(self) -> str | None:
        """The first line of level error: what it stumbled on, before its consequences."""
        if self._start is None:
            return None
        for _ in range(_LOG_TRIES):  # llama.cpp logs on a thread of its own
            with Path("/proc/self/fd/2").open("rb") as log:
                log.seek(self._start)
                found = _ERROR_LINE.search(log.read().decode("utf-8", "replace"))
            if found:
                return found["text"].strip()
            time.sleep(_LOG_WAIT_S)
        return None

    @staticmethod
    def _size() -> int | None:
        status = os.fstat(2)
        return status.st_size if stat.S_ISREG(status.st_mode) else None
