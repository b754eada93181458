"""`ekiben run`: ask a model, whatever it can do, through the running platform."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ekiben.cli import run_pictures, run_sounds, run_text
from ekiben.cli.client import model_path
from ekiben.cli.question import Question
from ekiben.cli.session import Session


@click.command()
@click.argument("name", metavar="MODEL")
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option("--system", metavar="TEXT", help="Chat: what the model is told before anything else.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Chat: the longest answer.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), help="Chat: 0 always gives the likeliest answer."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Speech and pictures: the file to write. Its suffix names the format: wav, mp3, flac, opus, aac, "
    "pcm; png, jpeg, webp.",
)
@click.option("--voice", default="default", show_default=True, help="Speech: one of the model's voices.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@click.pass_obj
def run(session: Session, /, name: str, words: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Ask a model, or chat with it.

    PROMPT is a text for models that chat, embed, speak or draw, and a file for those that hear or see; `-`
    reads it from standard input. A chat model without PROMPT holds a conversation: Ctrl-C stops an
    answer, /exit or Ctrl-D ends it.

    \b
      ekiben run smollm2-135m-instruct "Name three fruits."
      ekiben run all-minilm-l6-v2 "a lunch box" --json
      ekiben run piper-en-us-joe "The train is late." -o late.wav
      ekiben run whisper-base late.wav
      ekiben run pp-ocr-v6 receipt.png
      ekiben run digits-diffusion "a handwritten seven" -o seven.png
    """
    platform = session.platform()
    model = platform.get(model_path(name))
    question = Question(
        platform=platform,
        model=model["name"],
        prompt=" ".join(words) if words else None,
        options={key: value for key, value in options.items() if value is not None},
        as_json=as_json,
    )
    abilities = set(model["spec"]["abilities"])
    if "chat" in abilities and question.prompt is None and sys.stdin.isatty() and not as_json:
        run_text.converse(question)
        return
    for ability, ask in _ASK.items():
        if ability in abilities:
            ask(question)
            return
    raise click.UsageError(f"{model['name']} can {', '.join(sorted(abilities))}: use its HTTP API for that")


_ASK = {
    "chat": run_text.chat,
    "complete": run_text.complete,
    "embed": run_text.embed,
    "moderate": run_text.moderate,
    "speak": run_sounds.speak,
    "transcribe": run_sounds.transcribe,
    "translate": run_sounds.transcribe,
    "generate_image": run_pictures.draw,
    "read_text": run_pictures.read_text,
    "classify": run_pictures.classify,
    "detect": run_pictures.detect,
}
"""In the order in which a model that can do several things is asked."""
