"""What a batch has been answered so far: two files of lines, which are the record and the result in one.

A line is on the disk before anybody is told of it. Whoever opens the files again, after whatever end, cuts
off a line that was not finished, and knows which requests are done: each gets one line, in one of the two.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from ekiben.gateway.batches.lines import digest
from ekiben.gateway.batches.usage import Usage
from ekiben.store.blobs import Blobs, full_or_same, new_id, sync_folder

MAX_PIECE_BYTES: Final = 2**20


class _Response(msgspec.Struct):
    body: Any = None


class _Told(msgspec.Struct):
    """Of a line that was written here."""

    custom_id: str
    response: _Response | None = None


_TOLD: Final = msgspec.json.Decoder(_Told)


class Journal:
    """Of one batch. Methods block on the disk, and any thread may call them."""

    def __init__(self, blobs: Blobs, *, output_id: str, error_id: str) -> None:
        """Goes on with what is there. Raises StorageFull and OSError."""
        self.completed = 0
        self.failed = 0
        self.usage = Usage()
        self._guard = threading.Lock()  # lines are written by several threads
        self._done: set[bytes] = set()
        blobs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._output = _LineFile(blobs.path(output_id), self._recall_good)
        try:
            self._errors = _LineFile(blobs.path(error_id), self._recall_bad)
            sync_folder(blobs.folder)
        except BaseException:
            self._output.close()
            raise

    @property
    def output_bytes(self) -> int:
        return self._output.size_bytes

    @property
    def error_bytes(self) -> int:
        return self._errors.size_bytes

    def has(self, custom_id: str) -> bool:
        """Whether the request has its line."""
        return digest(custom_id) in self._done

    def answered(self, custom_id: str, *, status: int, request_id: str, body: bytes) -> None:
        """Write down an answer. On the disk when this returns. Raises StorageFull: nothing was written."""
        response = {"status_code": status, "request_id": request_id, "body": _json(body)}
        good = 200 <= status < 300
        self._write(custom_id, response=response, error=None, file=self._output if good else self._errors)

    def left_out(self, custom_id: str, *, code: str, message: str) -> None:
        """Write down why a request was not run. As `answered`, but it counts neither way."""
        error = {"code": code, "message": message}
        self._write(custom_id, response=None, error=error, file=self._errors)

    def _write(self, custom_id: str, *, response: Any, error: Any, file: _LineFile) -> None:
        line = {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": error}
        key = digest(custom_id)
        with self._guard:
            if key in self._done:
                return
            file.append(msgspec.json.encode(line) + b"\n")
            self._done.add(key)
            if response is not None and file is self._output:
                self.completed += 1
                self.usage.add(response["body"])
            elif response is not None:
                self.failed += 1

    def _recall_good(self, line: bytes) -> None:
        told = _TOLD.decode(line)
        self.usage.add(told.response and told.response.body)
        self._done.add(digest(told.custom_id))
        self.completed += 1

    def _recall_bad(self, line: bytes) -> None:
        told = _TOLD.decode(line)
        self._done.add(digest(told.custom_id))
        self.failed += told.response is not None

    def close(self) -> None:
        """Idempotent."""
        with self._guard:
            self._output.close()
            self._errors.close()


class _LineFile:
    """Grows by whole lines."""

    def __init__(self, path: Path, recall: Callable[[bytes], None]) -> None:
        self._path = path
        self.size_bytes = 0
        self._file: IO[bytes] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            self._recall(recall)
        except BaseException:
            self._file.close()
            raise

    def _recall(self, recall: Callable[[bytes], None]) -> None:
        """Up to the first line that is not whole: after a loss of power the end of a file may be anything."""
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    if not line.endswith(b"\n"):
                        break
                    recall(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    break
                self.size_bytes += len(line)
        self._cut()

    def _cut(self) -> None:
        self._file.truncate(self.size_bytes)
        self._file.seek(self.size_bytes)

    def append(self, line: bytes) -> None:
        try:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view[:MAX_PIECE_BYTES]) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._cut()
            raise full_or_same(error, self._path.parent) from None
        self.size_bytes += len(line)

    def close(self) -> None:
        self._file.close()


def _json(body: bytes) -> Any:
    """An answer that is no JSON is told as the text that it is."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
