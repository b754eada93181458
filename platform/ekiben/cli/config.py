"""`ekiben config`: the settings in force."""

from __future__ import annotations

import click

from ekiben.cli.output import echo_json, echo_table, json_option
from ekiben.cli.session import Session


@click.group()
def config() -> None:
    """Show the settings and where they come from.

    Later layers win: defaults, `ekiben.yaml` in the home, EKIBEN_* variables, flags.
    """


@config.command("show")
@json_option
@click.pass_obj
def show(session: Session, as_json: bool) -> None:
    """Print each setting, its value, and the layer it comes from. Secrets are hidden."""
    loaded = session.load()
    values = loaded.values.model_dump(mode="json")
    if as_json:
        echo_json({name: {"value": value, "from": loaded.origins[name]} for name, value in values.items()})
        return
    rows = [(name, "" if v is None else str(v), loaded.origins[name]) for name, v in values.items()]
    echo_table(("SETTING", "VALUE", "FROM"), rows, empty="no settings")
