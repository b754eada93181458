"""`ekiben load` and `ekiben stop`: bring a running platform's models up and down by hand."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from ekiben.cli.client import model_path
from ekiben.cli.output import format_bytes
from ekiben.cli.session import Session
from ekiben.cli.waiting import notice_of


@click.command()
@click.argument("name", metavar="MODEL")
@click.option("--engine", help="Run it with this engine from now on; auto: the platform chooses.")
@click.option("--quantization", help="Run it in this quantization from now on; auto: the platform chooses.")
@click.pass_obj
def load(session: Session, name: str, engine: str | None, quantization: str | None) -> None:
    """Start a model before anybody asks for it, and wait until it is ready.

    Its weights are fetched first when they are not here. Idle, it is unloaded like any other. An engine or
    quantization is kept in the model's spec; what runs already serves until the new choice is ready.
    """
    platform = session.platform()
    given = {"engine": engine, "quantization": quantization}
    orders = {what: value for what, value in given.items() if value is not None}
    query = f"?{urlencode(orders)}" if orders else ""
    with notice_of(platform, name):
        status = platform.call("POST", model_path(name, action="load") + query)
    memory = f", {format_bytes(status['memory_bytes'])}" if status.get("memory_bytes") else ""
    click.echo(f"{status['name']} is {status['state']}{memory}")


@click.command()
@click.argument("name", metavar="MODEL")
@click.pass_obj
def stop(session: Session, name: str) -> None:
    """Let a model's running requests end and unload it. The next request starts it again."""
    platform = session.platform()
    status = platform.call("POST", model_path(name, action="stop"))
    click.echo(f"{status['name']} is {status['state']}")
