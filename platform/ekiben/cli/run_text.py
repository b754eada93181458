"""Asking models that take a text and answer in words or numbers; and the conversation in the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from ekiben.cli.client import read_events
from ekiben.cli.output import echo_json, echo_table
from ekiben.cli.question import Question
from ekiben.cli.waiting import notice_of
from ekiben.errors import EkibenError

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETE_PATH: Final = "/v1/completions"
EMBED_PATH: Final = "/v1/embeddings"
MODERATE_PATH: Final = "/v1/moderations"
SHOWN_VALUES: Final = 8
HELP: Final = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer"


def chat(question: Question) -> None:
    """One answer, as it is made."""
    messages = [*_system(question), {"role": "user", "content": question.text()}]
    _tell(question, CHAT_PATH, {"messages": messages})


def complete(question: Question) -> None:
    """The text goes on."""
    _tell(question, COMPLETE_PATH, {"prompt": question.text()})


def embed(question: Question) -> None:
    """The vector in short, or whole as JSON."""
    body = {"model": question.model, "input": question.text(), "encoding_format": "float"}
    with notice_of(question.platform, question.model):
        answer = question.platform.call("POST", EMBED_PATH, body)
    if question.as_json:
        echo_json(answer)
        return
    vector = answer["data"][0]["embedding"]
    norm = math.sqrt(sum(value * value for value in vector))
    values = ", ".join(f"{value:.4f}" for value in vector[:SHOWN_VALUES])
    more = ", …" if len(vector) > SHOWN_VALUES else ""
    tokens = answer["usage"]["prompt_tokens"]
    click.echo(f"{len(vector)} dimensions, length {norm:.3f}, from {tokens} tokens: [{values}{more}]")


def moderate(question: Question) -> None:
    """What speaks against a text, the strongest first."""
    body = {"model": question.model, "input": question.text()}
    with notice_of(question.platform, question.model):
        answer = question.platform.call("POST", MODERATE_PATH, body)
    if question.as_json:
        echo_json(answer)
        return
    (result,) = answer["results"]
    scores = sorted(result["category_scores"].items(), key=lambda one: -one[1])
    rows = [
        (name, f"{score:.3f}", "yes" if result["categories"][name] else "no")
        for name, score in scores
        if score
    ]
    echo_table(("CATEGORY", "SCORE", "FLAGGED"), rows, empty="nothing speaks against it")


def converse(question: Question) -> None:
    """A conversation in the terminal, until /exit or Ctrl-D."""
    import readline  # noqa: F401 - gives `input` line editing and a history

    click.echo(f"{question.model}: {HELP}")
    messages = _system(question)
    while True:
        try:
            text = input(">>> ").strip()
        except EOFError:
            click.echo()
            return
        if text == "/exit":
            return
        if text == "/clear":
            messages = _system(question)
        elif text.startswith("/"):
            click.echo(HELP)
        elif text:
            messages = _exchange(question, messages, text)


def _exchange(question: Question, messages: list[dict[str, str]], text: str) -> list[dict[str, str]]:
    """The conversation with one more question and its answer; as it was, when there is none."""
    asked = [*messages, {"role": "user", "content": text}]
    answer: list[str] = []
    try:
        for piece in _pieces(question, CHAT_PATH, {"messages": asked}):
            answer.append(piece)
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo(" …", nl=False)
    except EkibenError as error:
        click.echo(f"error: {error.message}", err=True)
        return messages
    click.echo()
    return [*asked, {"role": "assistant", "content": "".join(answer)}] if answer else messages


def _system(question: Question) -> list[dict[str, str]]:
    system = question.options.get("system")
    return [{"role": "system", "content": system}] if system else []


def _tell(question: Question, path: str, body: dict[str, Any]) -> None:
    """Print the answer as it comes, or whole as JSON."""
    if question.as_json:
        with notice_of(question.platform, question.model):
            echo_json(question.platform.call("POST", path, _with_options(question, body)))
        return
    last = ""
    for piece in _pieces(question, path, body):
        last = piece
        click.echo(piece, nl=False)
        sys.stdout.flush()
    if not last.endswith("\n"):
        click.echo()


def _pieces(question: Question, path: str, body: dict[str, Any]) -> Iterator[str]:
    """The text of a streamed answer. Raises EkibenError. Closing it hangs up, which ends the work."""
    body = _with_options(question, body) | {"stream": True}
    with (
        notice_of(question.platform, question.model) as quiet,
        question.platform.ask("POST", path, body) as response,
    ):
        for event in read_events(response):
            quiet()
            for choice in event.get("choices", ()):
                if text := choice.get("text") or (choice.get("delta") or {}).get("content"):
                    yield text


def _with_options(question: Question, body: dict[str, Any]) -> dict[str, Any]:
    chosen = {key: question.options[key] for key in ("max_tokens", "temperature") if key in question.options}
    return {"model": question.model, **body, **chosen}
