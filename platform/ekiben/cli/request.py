"""`ekiben request`: what is being answered just now, and the way to end it."""

from __future__ import annotations

from urllib.parse import quote

import click

from ekiben.cli.output import echo_json, echo_table, format_seconds, json_option
from ekiben.cli.session import Session


@click.group()
def request() -> None:
    """List and cancel running requests to models."""


@request.command("ls")
@json_option
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List the requests that are under way, the oldest first."""
    requests = session.platform().get("/api/requests")["requests"]
    if as_json:
        echo_json(requests)
        return
    rows = [
        (
            r["id"],
            r["model"],
            r["route"],
            format_seconds(r["age_s"]),
            "answering" if r["answering"] else "waiting",
        )
        for r in requests
    ]
    echo_table(("ID", "MODEL", "ROUTE", "AGE", "STATE"), rows, empty="no requests")


@request.command("cancel")
@click.argument("request_id", metavar="ID")
@click.pass_obj
def cancel(session: Session, request_id: str) -> None:
    """End a request by the id that its client sees in `x-request-id`."""
    cancelled = session.platform().call("POST", f"/api/requests/{quote(request_id, safe='')}/cancel")
    count = cancelled["cancelled"]
    click.echo(f"cancelled {request_id}" + (f" ({count} requests)" if count > 1 else ""))
