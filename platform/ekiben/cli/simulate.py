"""`ekiben simulate`: recorded traffic against the policies, on this machine and without a platform."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ekiben.cli.output import NONE, echo_json, echo_table, json_option
from ekiben.errors import ConfigError

if TYPE_CHECKING:
    from ekiben.fleet.simulation.comparison import Row
    from ekiben.fleet.simulation.scenario import Scenario

UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _sizes(ctx: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(_size, values))


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text)
    size_bytes = round(float(match[1]) * UNITS.get(match[2], 0)) if match else 0
    if size_bytes <= 0:
        raise click.BadParameter(
            f"{text!r} is no size: write a number and one of {', '.join(UNITS)}, as in 64GiB"
        )
    return size_bytes


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--models", default=40, show_default=True, type=click.IntRange(1, 1000), help="How many models."
)
@click.option(
    "--memory",
    "memories",
    multiple=True,
    callback=_sizes,
    help="Cap of the memory, as 64GiB: compares eviction. Without it, compares keep-alive. Repeatable.",
)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1, 100), help="How many draws of the trace."
)
@click.option("--first-seed", default=1, show_default=True, help="The seed of the first draw.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="NAME or NAME:NUMBER; the first is what the others are measured against. Repeatable.",
)
@click.option(
    "--hours",
    default=math.inf,
    type=click.FloatRange(min=0, min_open=True),
    help="How much of the trace, from its start; all of it by default.",
)
@click.option("--workload", "workloads", multiple=True, help="Only this workload of the trace. Repeatable.")
@click.option(
    "--most-requests",
    default=1400,
    show_default=True,
    type=click.IntRange(1),
    help="Thin out a stream that has more: a model that is never idle tells nothing.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write waiting against memory as SVG."
)
@json_option
def simulate(
    trace: Path,
    models: int,
    memories: Sequence[int],
    seeds: int,
    first_seed: int,
    policies: Sequence[str],
    hours: float,
    workloads: Sequence[str],
    most_requests: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Show what policies would have cost over recorded traffic.

    TRACE is a table of rates of ServeGen or of requests of Azure, as CSV, gzipped or not. Its streams
    become models of drawn sizes. A policy is the id of a plugin, as in the setting of that name, and decides
    by the code that the fleet runs. Besides, there are to compare with: under a cap lru, ollama and
    clairvoyant; without one ttl[:seconds], hybrid-histogram and clairvoyant[:price in GB].
    """
    from ekiben.fleet.simulation.scenario import draw_scenario
    from ekiben.fleet.simulation.trace import read_trace

    traffic = read_trace(trace, until_s=hours * 3600, workloads=workloads)
    draws: list[Scenario] = []
    for seed in range(first_seed, first_seed + seeds):
        draws.append(draw_scenario(traffic, models=models, most_requests=most_requests, seed=seed))
        _say(f"seed {seed}: {draws[-1].requests} requests for {models} models")
    rows = list(_compared(draws, policies, memories))
    if plot is not None:
        _write(plot, _plotted(rows))
    if as_json:
        echo_json([row.as_dict() for row in rows])
    else:
        _show(rows)


def _compared(draws: Sequence[Scenario], policies: Sequence[str], memories: Sequence[int]) -> Iterator[Row]:
    from ekiben.fleet.simulation import comparison
    from ekiben.plugins.discovery import discover

    plugins = discover()
    if memories:
        chosen = policies or comparison.CAPPED_POLICIES
        for memory_bytes in memories:
            for row in comparison.compare_capped(draws, chosen, plugins, memory_bytes=memory_bytes):
                _say(f"done: {row.policy} in {_gib(memory_bytes)}")
                yield row
        return
    for row in comparison.compare_unbounded(draws, policies or comparison.UNBOUNDED_POLICIES, plugins):
        _say(f"done: {row.policy}")
        yield row


def _show(rows: Sequence[Row]) -> None:
    titles = (
        *("MEMORY", "POLICY", "REQUESTS", "LOADS", "COLD", "MEAN WAIT", "P99 WAIT", "GB HOURS"),
        *("WAIT", "FROM", "TO", "GB HOURS"),
    )
    echo_table(titles, [_cells(row.as_dict()) for row in rows], empty="no policy was compared")
    click.echo(
        f"the last four columns are relative to {rows[0].policy}: geometric means over the seeds, and a range"
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ratios = row["wait_ratios"]
    return (
        NONE if row["memory_bytes"] is None else _gib(row["memory_bytes"]),
        row["policy"],
        f"{row['requests']:.0f}",
        f"{row['loads']:.0f}",
        f"{row['cold_share']:.2%}",
        f"{row['mean_wait_s']:.3f}s",
        f"{row['p99_wait_s']:.1f}s",
        f"{row['memory_gb_hours']:.0f}",
        _times(row["wait_ratio"]),
        _times(min(ratios, default=None)),
        _times(max(ratios, default=None)),
        _times(row["memory_ratio"]),
    )


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}x"


def _gib(count: int) -> str:
    return f"{count / 2**30:.4g} GiB"


def _plotted(rows: Sequence[Row]) -> str:
    """Under caps the memory is the cap; without one it is what was held, on average over the seeds."""
    from ekiben.fleet.simulation.plot import Series, draw_svg

    capped = rows[0].memory_bytes is not None
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        shown = row.as_dict()
        memory = (row.memory_bytes or 0) / 2**30 if capped else shown["memory_gb_hours"]
        # the points of a rule that was tried with several numbers belong together
        points.setdefault(row.policy.partition(":")[0], []).append((memory, shown["mean_wait_s"]))
    return draw_svg(
        [Series(name, sorted(of_one)) for name, of_one in points.items()],
        title="Waiting against memory, by policy",
        across="memory, GiB" if capped else "memory held, GB hours",
        up="mean wait of a request, s",
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    _say(f"plot: {path}")


def _say(text: str) -> None:
    click.echo(text, err=True)
