"""`ekiben load` and `ekiben stop`: bring a running platform's models up and down by hand."""

from __future__ import annotations

import click

from ekiben.cli.client import model_path
from ekiben.cli.output import format_bytes
from ekiben.cli.session import Session
from ekiben.cli.waiting import notice_of


@click.command()
@click.argument("name", metavar="MODEL")
@click.pass_obj
def load(session: Session, name: str) -> None:
    """Start a model before anybody asks for it, and wait until it is ready.

    Its weights are fetched first when they are not here. Idle, it is unloaded like any other.
    """
    platform = session.platform()
    with notice_of(platform, name):
        status = platform.call("POST", model_path(name, action="load"))
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
