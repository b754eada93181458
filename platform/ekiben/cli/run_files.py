"""Asking models that take or give a file: speech, transcripts, text in pictures."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import click

from ekiben.cli.client import read_chunks
from ekiben.cli.output import echo_json, format_bytes
from ekiben.cli.question import STDIN, Question
from ekiben.cli.waiting import notice_of
from ekiben.errors import EkibenError

SPEECH_PATH: Final = "/v1/audio/speech"
TRANSCRIBE_PATH: Final = "/v1/audio/transcriptions"
OCR_PATH: Final = "/v1/images/ocr"
FORMATS: Final = ("wav", "mp3", "flac", "opus", "aac", "pcm")
CHUNK_BYTES: Final = 1 << 16


def speak(question: Question) -> None:
    """Speech into a file, or onto standard output when that is not a terminal."""
    output = question.options.get("output")
    to_stdout = output is None or str(output) == STDIN
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("speech needs a file: say where it goes with -o FILE.wav")
    suffix = "wav" if output is None or to_stdout else output.suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise click.UsageError(f"the suffix of -o must be one of {', '.join(FORMATS)}, not {suffix!r}")
    body = {
        "model": question.model,
        "input": question.text(),
        "voice": question.options["voice"],
        "response_format": suffix,
    }
    chunks = _speech(question, body)
    if output is None or to_stdout:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    else:
        click.echo(f"wrote {output} ({format_bytes(_write(output, chunks))})")


def transcribe(question: Question) -> None:
    """What is said in an audio file."""
    style = "verbose_json" if question.as_json else "json"
    answer = _send_file(
        question, TRANSCRIBE_PATH, {"model": question.model, "response_format": style}, part="file"
    )
    _print(question, answer)


def read_text(question: Question) -> None:
    """The lines of text in a picture."""
    _print(question, _send_file(question, OCR_PATH, {"model": question.model}, part="image"))


def _print(question: Question, answer: dict[str, Any]) -> None:
    if question.as_json:
        echo_json(answer)
    else:
        click.echo(str(answer["text"]).strip())


def _speech(question: Question, body: dict[str, Any]) -> Iterator[bytes]:
    with (
        notice_of(question.platform, question.model) as quiet,
        question.platform.ask("POST", SPEECH_PATH, body) as response,
    ):
        for chunk in read_chunks(response):
            quiet()
            yield chunk


def _write(path: Path, chunks: Iterator[bytes]) -> int:
    """Write to a file beside, and put it in place once it is whole. Returns its size."""
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


def _send_file(question: Question, path: str, fields: Mapping[str, str], *, part: str) -> dict[str, Any]:
    """Post a form with a file and read the JSON answer."""
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
