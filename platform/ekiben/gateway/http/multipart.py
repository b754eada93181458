"""Finds a few fields in a multipart body while it passes by; of the rest, at most one file is handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ekiben.errors import InvalidRequest

MAX_PARTS: Final = 128
MAX_VALUE_BYTES: Final = 1024
WANTED: Final = (b"model", b"stream")
FILE: Final = b"file"


class FormFields:
    """Feed it the body, then ask it. Raises InvalidRequest for what is broken.

    With `file`, which gets the pieces of the part of that name, nothing is let by that is not `wanted`.
    """

    def __init__(
        self,
        content_type: bytes,
        *,
        wanted: tuple[bytes, ...] = WANTED,
        file: Callable[[bytes], None] | None = None,
    ) -> None:
        if content_type.lower().count(b"boundary=") != 1:
            raise InvalidRequest("the content-type multipart/form-data needs one boundary")
        _, options = parse_options_header(content_type)
        self.filename: str | None = None
        """As the client wrote it; None as long as there was no file."""
        self._names = wanted
        self._file = file
        self._values: dict[bytes, bytes] = {}
        self._parts = 0
        self._ended = False
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._wanted: bytes | None = None
        self._value = bytearray()
        try:
            self._parser = MultipartParser(
                options.get(b"boundary", b""),
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"the multipart body cannot be read: {error}") from None

    def feed(self, data: bytes) -> None:
        """The next piece."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the multipart body is broken: {error}") from None

    def finish(self) -> None:
        """The body is over."""
        if not self._ended:
            raise InvalidRequest("the multipart body ends without its final boundary")

    def value(self, name: str) -> str | None:
        """A field's text, or None when it was not sent."""
        raw = self._values.get(name.encode())
        if raw is None:
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"the field {name!r} is not UTF-8", param=name) from None

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"the multipart body has more than {MAX_PARTS} parts")
        self._disposition = b""
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        if self._file is not None and b"filename" in options and name == FILE:
            self._begin_file(options[b"filename"])
            return
        self._wanted = name if name in self._names and b"filename" not in options else None
        text = name.decode("utf-8", "replace")[:100]
        if self._wanted is not None and name in self._values:
            raise InvalidRequest(f"{text!r} is given twice: send it once", param=text)
        if self._wanted is None and self._file is not None:
            what = "must be a file" if name == FILE else "is not a field of this route"
            raise InvalidRequest(f"{text!r} {what}", param=text)

    def _begin_file(self, filename: bytes) -> None:
        if self.filename is not None:
            raise InvalidRequest("'file' is given twice: send one file", param="file")
        self.filename = filename.decode("utf-8", "replace")
        self._wanted = FILE

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted is None:
            return
        if self._wanted is FILE and self._file is not None:
            self._file(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_VALUE_BYTES:
            name = self._wanted.decode()
            raise InvalidRequest(f"the field {name!r} is larger than {MAX_VALUE_BYTES} bytes", param=name)

    def _part_end(self) -> None:
        if self._wanted is not None and self._wanted is not FILE:
            self._values[self._wanted] = bytes(self._value)
        self._wanted = None

    def _end(self) -> None:
        self._ended = True
