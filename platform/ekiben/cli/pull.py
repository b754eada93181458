"""`ekiben pull`: bring weights here, by this process itself. The store of weights is safe to share, so
a platform that runs on the same home takes part in the same download."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ekiben.cli.output import format_bytes
from ekiben.cli.pull_progress import make_display
from ekiben.cli.session import Session

if TYPE_CHECKING:
    from ekiben.contract.model import Variant
    from ekiben.plugins.discovery import Plugins


@click.command()
@click.argument("name", metavar="MODEL")
@click.pass_obj
def pull(session: Session, name: str) -> None:
    """Bring a model's weights to this machine.

    A request for the model would do the same, and wait meanwhile. What was interrupted goes on where it
    stopped, when the source allows it.
    """
    from ekiben.cli.offline import chosen_variant, find_model
    from ekiben.contract.model import ModelSpec
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    found = find_model(session, name, plugins)
    spec = ModelSpec.model_validate(found["spec"])
    index, obstacle, _ = chosen_variant(found, session.settings, plugins)
    variant = spec.variants[index]
    try:
        path, size = asyncio.run(_fetch(spec.name, variant, session.settings.home, plugins))
    except KeyboardInterrupt:
        click.echo(f"stopped; what has come is kept: `ekiben pull {name}` goes on from there", err=True)
        raise
    click.echo(f"{spec.name}: {format_bytes(size)} in {path}")
    if obstacle:
        click.echo(f"note: {obstacle}", err=True)


async def _fetch(name: str, variant: Variant, home: Path, plugins: Plugins) -> tuple[Path, int]:
    from ekiben.catalog.parcel import fetch_parcel, sources_of
    from ekiben.catalog.weights import WeightsStore

    store = WeightsStore(home, plugins)
    with make_display(name, terminal=sys.stderr.isatty()) as display:
        parcel = await fetch_parcel(variant, store, report=display.show)
    return parcel.weights, sum(store.size_bytes(source) or 0 for source in sources_of(variant))
