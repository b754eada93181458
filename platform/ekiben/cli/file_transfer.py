"""Files that go to the platform and files that come back: sent as they are read, put in place once whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import click

from ekiben.cli.client import read_chunks
from ekiben.cli.output import echo_json
from ekiben.cli.question import Question
from ekiben.cli.waiting import notice_of
from ekiben.errors import EkibenError

CHUNK_BYTES: Final = 1 << 16


def write_file(path: Path, chunks: Iterable[bytes]) -> int:
    """Write to a file beside, and put it in place once it is whole. Returns its size; raises EkibenError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    size = 0
    try:
        with part.open("xb") as file:
            for chunk in chunks:
                size += file.write(chunk)
        part.replace(path)
    except OSError as error:
        raise EkibenError(f"cannot write {str(path)!r}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return size


def suffix_of(output: Path, formats: Sequence[str]) -> str:
    """The format that a file's name asks for. Raises click.UsageError for all but `formats`."""
    suffix = output.suffix.removeprefix(".").lower()
    if suffix not in formats:
        raise click.UsageError(f"the suffix of -o must be one of {', '.join(formats)}, not {suffix!r}")
    return suffix


def show_text(question: Question, answer: Mapping[str, Any]) -> None:
    """The text of an answer, or the whole of it as JSON."""
    if question.as_json:
        echo_json(answer)
    else:
        click.echo(str(answer["text"]).strip())


def send_file(question: Question, path: str, fields: Mapping[str, str], *, part: str) -> dict[str, Any]:
    """Post a form with the file that the prompt names, and read the JSON answer. Blocking."""
    import json

    boundary = f"ekiben-{secrets.token_hex(16)}"
    with question.file() as (name, content), notice_of(question.platform, question.model):
        head, tail = _form(boundary, fields, part=part, filename=name)
        body, length = _measured(head, content, tail)
        with question.platform.send(
            "POST",
            path,
            body,
            content_type=f"multipart/form-data; boundary={boundary}",
            headers={"content-length": str(length)},
        ) as response:
            answer = json.loads(b"".join(read_chunks(response)))
    assert isinstance(answer, dict)
    return answer


def _form(boundary: str, fields: Mapping[str, str], *, part: str, filename: str) -> tuple[bytes, bytes]:
    """What comes before and after the file's content."""
    safe = "".join(c if c.isalnum() or c in "-_. " else "_" for c in filename)
    lines = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    lines.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{part}"; filename="{safe}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    return "".join(lines).encode(), f"\r\n--{boundary}--\r\n".encode()


def _measured(head: bytes, content: IO[bytes], tail: bytes) -> tuple[Iterator[bytes], int]:
    """The whole body and its length; only what cannot be measured is read into memory."""
    if content.seekable():
        size = content.seek(0, 2)
        content.seek(0)
        chunks = iter(lambda: content.read(CHUNK_BYTES), b"")
    else:
        data = content.read()
        size, chunks = len(data), iter([data])

    def body() -> Iterator[bytes]:
        yield head
        yield from chunks
        yield tail

    return body(), len(head) + size + len(tail)
