"""How listings look: JSON for programs, aligned columns elsewhere, colour only on a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

NONE: Final = "-"
_COLOURS: Final = {
    "ready": "green",
    "ok": "green",
    "failed": "red",
    "fail": "red",
    "broken": "red",
    "missing": "yellow",
    "warn": "yellow",
    "cold": "bright_black",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def echo_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Rows under their titles, or the sentence `empty`. Nothing is cut off where no terminal sets a width."""
    cleaned = [[clean(cell) or NONE for cell in row] for row in rows]
    if not cleaned:
        click.echo(empty)
    elif sys.stdout.isatty():
        _echo_rich(titles, cleaned)
    else:
        _echo_plain(titles, cleaned)


def _echo_plain(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _echo_rich(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, title in enumerate(titles):
        table.add_column(title, no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def echo_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values of one thing, one a line; empty ones are left out."""
    shown = [(name, clean(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")


def clean(text: str) -> str:
    """Without line breaks and control characters, which a model's name or an error may bring along."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def format_bytes(count: float | None) -> str:
    """`98.2 MB`; decimal units, as disks and package indexes count."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.95 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def format_seconds(seconds: float | None) -> str:
    """`0.8s`, `45s`, `4m 32s`, `2h 05m`."""
    if seconds is None:
        return NONE
    if math.isinf(seconds):
        return "never"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def format_share(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"
