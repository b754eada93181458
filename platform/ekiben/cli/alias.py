"""`ekiben alias`: other names for models, through the running platform or straight on the home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from ekiben.cli.output import echo_json, echo_table, json_option
from ekiben.cli.session import Session

if TYPE_CHECKING:
    from ekiben.plugins.discovery import Plugins


@click.group()
def alias() -> None:
    """Give models other names, such as those that a client insists on."""


@alias.command("ls")
@json_option
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List the aliases that were set."""
    aliases = _read(session)
    if as_json:
        echo_json(aliases)
        return
    echo_table(("ALIAS", "MODEL"), [(a["name"], a["model"]) for a in aliases], empty="no aliases")


@alias.command("set")
@click.argument("name", metavar="ALIAS")
@click.argument("model")
@click.pass_obj
def set_(session: Session, name: str, model: str) -> None:
    """Let ALIAS stand for MODEL, from now on and after restarts."""
    from ekiben.cli.offline import hold_catalog

    platform = session.find_platform()
    if platform is not None:
        meant = platform.call("PUT", _path(name), {"model": model})["model"]
    else:
        with hold_catalog(session.settings.home, _plugins()) as catalog:
            meant = catalog.set_alias(name, model=model).model
    click.echo(f"{name} stands for {meant}")


@alias.command("rm")
@click.argument("name", metavar="ALIAS")
@click.pass_obj
def rm(session: Session, name: str) -> None:
    """Remove an alias; its model stays."""
    from ekiben.cli.offline import hold_catalog

    platform = session.find_platform()
    if platform is not None:
        platform.call("DELETE", _path(name))
    else:
        with hold_catalog(session.settings.home, _plugins()) as catalog:
            catalog.remove_alias(name)
    click.echo(f"removed {name}")


def _read(session: Session) -> list[dict[str, Any]]:
    from ekiben.cli.offline import open_catalog

    platform = session.find_platform()
    if platform is not None:
        listed: list[dict[str, Any]] = platform.get("/api/aliases")["aliases"]
        return listed
    with open_catalog(session.settings.home, _plugins()) as catalog:
        return [
            {"name": each.name, "model": each.model, "created_at": each.created_at.isoformat()}
            for each in catalog.aliases()
        ]


def _plugins() -> Plugins:
    from ekiben.plugins.discovery import discover

    return discover()


def _path(name: str) -> str:
    return f"/api/aliases/{quote(name, safe='')}"
