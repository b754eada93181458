"""Multipart forms, fed as they arrive: fields in memory, files on disk, everything within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ekiben.errors import InvalidRequest, RequestTooLarge

MAX_FORM_BYTES: Final = 512 * 2**20
MAX_PARTS: Final = 128
MAX_FIELD_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form, on disk until the request ends."""

    path: Path
    filename: str
    content_type: str
    size_bytes: int


@dataclass(slots=True)
class Form:
    """A multipart body: fields in order of arrival, files by name."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    listed: dict[str, list[Upload]] = field(default_factory=dict)
    """Files that were sent as `name[]`, by that name without the brackets."""

    def one(self, name: str) -> str | None:
        """A field that may be given once."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise InvalidRequest(f"{name!r} is given {len(values)} times: send it once", param=name)
        return values[0] if values else None

    def many(self, name: str) -> list[str]:
        """A list field, sent as `name[]` or `name`, repeated."""
        return self.fields.get(f"{name}[]", []) + self.fields.get(name, [])


class FormReader:
    """Feeds python-multipart's parser and keeps what it finds, within bounds."""

    def __init__(self, folder: Path, boundary: bytes) -> None:
        self._form = Form()
        self._folder = folder
        self._count = 0
        self._ended = False
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._filename: str | None = None
        self._value = bytearray()
        self._file: BinaryIO | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value_part,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes. Raises InvalidRequest and RequestTooLarge."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"the multipart body is broken: {error}") from None

    def finish(self) -> Form:
        """The form. Raises InvalidRequest when the body ended early."""
        if not self._ended:
            raise InvalidRequest("the multipart body ends without its final boundary")
        return self._form

    def close(self) -> None:
        """Close a file that was being written; the folder is the caller's."""
        if self._file is not None:
            self._file.close()

    def _part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise InvalidRequest(f"the multipart body has more than {MAX_PARTS} parts")
        self._headers = {}
        self._value = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            raise InvalidRequest("a part of the multipart body has no name")
        filename = options.get(b"filename")
        self._filename = None if filename is None else filename.decode("utf-8", "replace")
        if self._filename is not None:
            if self._name in self._form.files:
                raise InvalidRequest(f"{self._name!r} is given twice: send one file", param=self._name)
            # The client's file name is never part of a path.
            self._file = (self._folder / f"part-{self._count}").open("wb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise RequestTooLarge(f"the field {self._name!r} is larger than {MAX_FIELD_BYTES} bytes")

    def _part_end(self) -> None:
        if self._file is not None:
            size = self._file.tell()
            self._file.close()
            content_type = self._headers.get(b"content-type", b"").decode("latin-1")
            upload = Upload(Path(self._file.name), self._filename or "", content_type, size)
            if self._name.endswith("[]"):
                self._form.listed.setdefault(self._name.removesuffix("[]"), []).append(upload)
            else:
                self._form.files[self._name] = upload
            self._file = None
            return
        try:
            text = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"the field {self._name!r} is not UTF-8", param=self._name) from None
        self._form.fields.setdefault(self._name, []).append(text)

    def _end(self) -> None:
        self._ended = True
