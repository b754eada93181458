"""One thing that a user asks a model on the command line, and where its input comes from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import click

from ekiben.cli.client import Platform
from ekiben.errors import EkibenError

STDIN: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    platform: Platform
    model: str
    prompt: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    as_json: bool = False

    def text(self) -> str:
        """The prompt, or what is piped in. Raises click.UsageError when there is neither."""
        if self.prompt is not None and self.prompt != STDIN:
            return self.prompt
        text = "" if self.prompt is None and sys.stdin.isatty() else sys.stdin.read()
        if not text.strip():
            raise click.UsageError(f"{self.model} needs a PROMPT, or a text on standard input")
        return text

    @contextmanager
    def file(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Name and content of the file that the prompt is. Raises click.UsageError and EkibenError."""
        if self.prompt == STDIN or (self.prompt is None and not sys.stdin.isatty()):
            yield "standard-input", sys.stdin.buffer
            return
        if self.prompt is None:
            raise click.UsageError(f"{self.model} needs a FILE, or `-` for standard input")
        path = Path(self.prompt).expanduser()
        try:
            content = path.open("rb")
        except OSError as error:
            raise EkibenError(f"cannot read {self.prompt!r}: {error.strerror}") from None
        with content:
            yield path.name, content
