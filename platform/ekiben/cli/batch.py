"""`ekiben batch`: how far the batches are, and the way to end one. They are made with the OpenAI SDK."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from ekiben.cli.output import echo_fields, echo_json, echo_table, json_option
from ekiben.cli.session import Session


@click.group()
def batch() -> None:
    """List, show and cancel batches of requests."""


@batch.command("ls")
@json_option
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List the batches, the newest first."""
    batches = list(_all(session))
    if as_json:
        echo_json(batches)
        return
    rows = [(b["id"], b.get("model", "-"), b["endpoint"], b["status"], _counts(b)) for b in batches]
    echo_table(("ID", "MODEL", "ENDPOINT", "STATUS", "DONE"), rows, empty="no batches")


@batch.command("show")
@click.argument("batch_id", metavar="ID")
@json_option
@click.pass_obj
def show(session: Session, batch_id: str, as_json: bool) -> None:
    """Show one batch: its times, its files, and what is wrong with its lines."""
    told = session.platform().get(_path(batch_id))
    if as_json:
        echo_json(told)
        return
    names = ("id", "status", "model", "endpoint", "input_file_id", "output_file_id", "error_file_id")
    fields = [(name, str(told[name])) for name in names if told.get(name) is not None]
    fields.append(("done", _counts(told)))
    times = [(name.removesuffix("_at"), _time(told[name])) for name in told if name.endswith("_at")]
    errors = [
        (f"line {error.get('line', '-')}", f"{error['code']}: {error['message']}")
        for error in told.get("errors", {}).get("data", [])
    ]
    echo_fields([*fields, *times, *errors])


@batch.command("cancel")
@click.argument("batch_id", metavar="ID")
@click.pass_obj
def cancel(session: Session, batch_id: str) -> None:
    """Begin no more of a batch; what is done is kept."""
    told = session.platform().call("POST", f"{_path(batch_id)}/cancel")
    click.echo(f"{batch_id} is {told['status']}")


def _all(session: Session) -> Iterator[dict[str, Any]]:
    platform = session.platform()
    page = platform.get("/v1/batches?limit=100")
    yield from page["data"]
    while page["has_more"]:
        page = platform.get(f"/v1/batches?limit=100&after={page['last_id']}")
        yield from page["data"]


def _counts(told: dict[str, Any]) -> str:
    counts = told["request_counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{counts['completed'] + counts['failed']} of {counts['total']}{failed}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"
