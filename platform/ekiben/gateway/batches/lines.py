"""The lines of a batch's input: read one at a time, looked through before the first of them is run.

Plain computation over a file; blocks on the disk. What OpenAI has a code for is told by that code, with the
number of the line. Whether a body makes sense is the route's to say, when the line is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import IO, Any, Final

import msgspec

from ekiben.errors import EkibenError

MAX_LINES: Final = 50_000
MAX_INPUT_BYTES: Final = 200 * 2**20
MAX_LINE_BYTES: Final = 8 * 2**20
MAX_ERRORS: Final = 100
"""More of them would help nobody."""
MAX_ID: Final = 512
_FIELDS: Final = frozenset({"custom_id", "method", "url", "body"})
_NEEDED: Final = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: bytes
    """JSON, as it was written."""


@dataclass(slots=True)
class Inspection:
    """What a look at all lines has told."""

    lines: int = 0
    model: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)


class _Read(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


_READ: Final = msgspec.json.Decoder(_Read)


class _Wrong(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def read_lines(file: IO[bytes]) -> Iterator[Line]:
    """The requests of a file that has been looked through."""
    for _, raw in _raw_lines(file):
        read = _READ.decode(raw)
        yield Line(read.custom_id, bytes(read.body))


def inspect_lines(file: IO[bytes], *, endpoint: str, check_model: Callable[[str], None]) -> Inspection:
    """Look at every line. `check_model` raises an EkibenError for a model that cannot do it."""
    found = Inspection()
    inspector = _Inspector(endpoint, check_model)
    for number, raw in _raw_lines(file):
        found.lines += 1
        try:
            if found.lines > MAX_LINES:
                raise _Wrong("too_many_tasks", f"a batch has at most {MAX_LINES} requests")
            inspector.look_at(raw)
        except _Wrong as wrong:
            found.errors.append(_error(wrong, number))
        if len(found.errors) >= MAX_ERRORS or found.lines > MAX_LINES:
            break
    if not found.lines:
        found.errors.append(_error(_Wrong("empty_file", "the input file has no requests: write one a line")))
    found.model = inspector.model
    return found


def digest(custom_id: str) -> bytes:
    """What stands for an id where there are many of them."""
    return blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _raw_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered from one; empty ones are left out, and of one that is too long only its beginning is read."""
    file.seek(0)
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        part = raw
        while part and not part.endswith(b"\n") and len(raw) > MAX_LINE_BYTES:
            part = file.readline(MAX_LINE_BYTES)
        if raw.strip():
            yield number, raw


class _Inspector:
    """Remembers what must be the same in all lines, and what must not."""

    def __init__(self, endpoint: str, check_model: Callable[[str], None]) -> None:
        self.model: str | None = None
        self._endpoint = endpoint
        self._check_model = check_model
        self._seen: set[bytes] = set()

    def look_at(self, raw: bytes) -> None:
        line = _object(raw)
        for name in _NEEDED:
            if line.get(name) is None:
                raise _Wrong("missing_required_parameter", f"the line has no {name!r}", name)
        if unknown := line.keys() - _FIELDS:
            name = min(unknown)[:100]
            raise _Wrong("unknown_parameter", f"{name!r} is not a field of a line", name)
        self._check_id(line["custom_id"])
        if line["method"] != "POST":
            raise _Wrong("invalid_method", "the method of a line must be 'POST'", "method")
        if line["url"] != self._endpoint:
            message = f"the url of a line must be the batch's endpoint, {self._endpoint!r}"
            raise _Wrong("url_mismatch", message, "url")
        self._check_body(line["body"])

    def _check_id(self, custom_id: object) -> None:
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID:
            message = f"'custom_id' must be a string of 1 to {MAX_ID} characters"
            raise _Wrong("invalid_value", message, "custom_id")
        key = digest(custom_id)
        if key in self._seen:
            message = f"the custom_id {custom_id[:100]!r} stands in an earlier line too: use each once"
            raise _Wrong("duplicate_custom_id", message, "custom_id")
        self._seen.add(key)

    def _check_body(self, body: object) -> None:
        if not isinstance(body, dict):
            raise _Wrong("invalid_value", "'body' must be an object", "body")
        for name in ("stream", "background"):
            if body.get(name):
                raise _Wrong("invalid_value", f"{name!r} cannot be used in a batch", f"body.{name}")
        if body.get("response_format") == "url":
            message = "URLs of pictures would not last as long as the batch: ask for b64_json"
            raise _Wrong("invalid_value", message, "body.response_format")
        model = body.get("model")
        if not isinstance(model, str):
            raise _Wrong("missing_required_parameter", "the body has no 'model'", "body.model")
        if self.model is None:
            self._meet(model)
        elif model != self.model:
            message = f"the model {model[:100]!r} is not that of the lines before: a batch is for one model"
            raise _Wrong("model_mismatch", message, "body.model")

    def _meet(self, model: str) -> None:
        try:
            self._check_model(model)
        except EkibenError as error:
            raise _Wrong(error.error_code or "invalid_value", error.message, "body.model") from None
        self.model = model


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise _Wrong("invalid_json_line", f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        line = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _Wrong("invalid_json_line", "the line cannot be read as JSON") from None
    if not isinstance(line, dict):
        raise _Wrong("invalid_json_line", "the line is no JSON object")
    return line


def _error(wrong: _Wrong, line: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"code": wrong.code, "message": wrong.message}
    if wrong.param is not None:
        told["param"] = wrong.param
    if line is not None:
        told["line"] = line
    return told
