"""Asking models that make or hear sounds: speech, transcripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from ekiben.cli.client import read_chunks
from ekiben.cli.file_transfer import send_file, show_text, suffix_of, write_file
from ekiben.cli.output import format_bytes
from ekiben.cli.question import STDIN, Question
from ekiben.cli.waiting import notice_of

SPEECH_PATH: Final = "/v1/audio/speech"
TRANSCRIBE_PATH: Final = "/v1/audio/transcriptions"
FORMATS: Final = ("wav", "mp3", "flac", "opus", "aac", "pcm")


def speak(question: Question) -> None:
    """Speech into a file, or onto standard output when that is not a terminal."""
    output = question.options.get("output")
    to_stdout = output is None or str(output) == STDIN
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("speech needs a file: say where it goes with -o FILE.wav")
    suffix = "wav" if output is None or to_stdout else suffix_of(output, FORMATS)
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
        click.echo(f"wrote {output} ({format_bytes(write_file(output, chunks))})")


def transcribe(question: Question) -> None:
    """What is said in an audio file."""
    style = "verbose_json" if question.as_json else "json"
    fields = {"model": question.model, "response_format": style}
    show_text(question, send_file(question, TRANSCRIBE_PATH, fields, part="file"))


def _speech(question: Question, body: dict[str, Any]) -> Iterator[bytes]:
    with (
        notice_of(question.platform, question.model) as quiet,
        question.platform.ask("POST", SPEECH_PATH, body) as response,
    ):
        for chunk in read_chunks(response):
            quiet()
            yield chunk
