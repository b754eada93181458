"""Asking models that make, read and recognise pictures."""

from __future__ import annotations

import base64
import sys
from typing import Any, Final

import click

from ekiben.cli.file_transfer import send_file, show_text, suffix_of, write_file
from ekiben.cli.output import echo_json, echo_table, format_bytes
from ekiben.cli.question import STDIN, Question
from ekiben.cli.waiting import notice_of

GENERATE_PATH: Final = "/v1/images/generations"
OCR_PATH: Final = "/v1/images/ocr"
CLASSIFY_PATH: Final = "/v1/images/classify"
DETECT_PATH: Final = "/v1/images/detect"
FORMATS: Final = ("png", "jpeg", "jpg", "webp")


def draw(question: Question) -> None:
    """A picture into a file, or onto standard output when that is not a terminal."""
    output = question.options.get("output")
    to_stdout = output is None or str(output) == STDIN
    if to_stdout and sys.stdout.isatty() and not question.as_json:
        raise click.UsageError("a picture needs a file: say where it goes with -o FILE.png")
    suffix = "png" if output is None or to_stdout else suffix_of(output, FORMATS)
    body = {
        "model": question.model,
        "prompt": question.text(),
        "output_format": {"jpg": "jpeg"}.get(suffix, suffix),
        "response_format": "b64_json",
    }
    with notice_of(question.platform, question.model):
        answer = question.platform.call("POST", GENERATE_PATH, body)
    picture = base64.b64decode(answer["data"][0]["b64_json"])
    if output is not None and not to_stdout:
        click.echo(f"wrote {output} ({format_bytes(write_file(output, [picture]))})")
    elif question.as_json:
        echo_json(answer)
    else:
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()


def read_text(question: Question) -> None:
    """The lines of text in a picture."""
    show_text(question, _look(question, OCR_PATH))


def classify(question: Question) -> None:
    """What a picture shows, the likeliest first."""
    answer = _look(question, CLASSIFY_PATH)
    if question.as_json:
        echo_json(answer)
        return
    rows = [(one["label"], f"{one['score']:.3f}") for one in answer["labels"]]
    echo_table(("LABEL", "SCORE"), rows, empty="no labels")


def detect(question: Question) -> None:
    """The objects in a picture, the surest first, and where they are."""
    answer = _look(question, DETECT_PATH)
    if question.as_json:
        echo_json(answer)
        return
    rows = [
        (one["label"], f"{one['score']:.3f}", " ".join(f"{side:.0f}" for side in one["box"]))
        for one in answer["objects"]
    ]
    echo_table(("LABEL", "SCORE", "LEFT TOP RIGHT BOTTOM"), rows, empty="no objects")


def _look(question: Question, path: str) -> dict[str, Any]:
    return send_file(question, path, {"model": question.model}, part="image")
