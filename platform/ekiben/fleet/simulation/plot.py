"""A plot of waiting against memory as an SVG file, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 760
HEIGHT: Final = 480
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 40, 60
COLOURS: Final = ("#0b6e99", "#c4421a", "#3f7d20", "#7b4fa3", "#b8860b", "#444444", "#d0417e", "#008b8b")


@dataclass(frozen=True, slots=True)
class Series:
    """One policy: its points, in order, joined by a line."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values to pixels, from zero to just above the largest."""

    largest: float
    start_px: float
    end_px: float

    @property
    def step(self) -> float:
        """1, 2 or 5 times a power of ten, so that there are four to ten marks."""
        power = 10.0 ** math.floor(math.log10(self.largest))
        return next(
            power * factor for factor in (0.1, 0.2, 0.5, 1.0) if self.largest / (power * factor) <= 10
        )

    @property
    def marks(self) -> list[float]:
        return [index * self.step for index in range(math.ceil(self.largest / self.step) + 1)]

    def at(self, value: float) -> float:
        return self.start_px + (self.end_px - self.start_px) * value / self.marks[-1]


def draw_svg(series: Sequence[Series], *, title: str, across: str, up: str) -> str:
    """The whole file. Both axes start at zero: what looks like half is half."""
    points = [point for each in series for point in each.points]
    x = _Axis(max((p[0] for p in points), default=0) or 1.0, LEFT, WIDTH - RIGHT)
    y = _Axis(max((p[1] for p in points), default=0) or 1.0, HEIGHT - BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 16, title, size=14),
        *_frame(x, y, across, up),
    ]
    for index, each in enumerate(series):
        lines += _one(each, COLOURS[index % len(COLOURS)], index, x, y)
    return "\n".join([*lines, "</svg>", ""])


def _frame(x: _Axis, y: _Axis, across: str, up: str) -> Iterator[str]:
    for mark in x.marks:
        yield _line(x.at(mark), y.start_px, x.at(mark), y.end_px)
        yield _text(x.at(mark), y.start_px + 18, f"{mark:g}", anchor="middle")
    for mark in y.marks:
        yield _line(x.start_px, y.at(mark), x.end_px, y.at(mark))
        yield _text(x.start_px - 8, y.at(mark) + 4, f"{mark:.6g}", anchor="end")
    yield _text((x.start_px + x.end_px) / 2, HEIGHT - 16, across, anchor="middle")
    middle = (y.start_px + y.end_px) / 2
    yield f'<g transform="translate(18 {middle:.1f}) rotate(-90)">{_text(0, 0, up, anchor="middle")}</g>'


def _one(series: Series, colour: str, index: int, x: _Axis, y: _Axis) -> Iterator[str]:
    pixels = [(x.at(across), y.at(up)) for across, up in series.points]
    if len(pixels) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in pixels)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for px, py in pixels:
        yield f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>'
    row = TOP + 18 * index
    yield f'<circle cx="{WIDTH - RIGHT + 24}" cy="{row}" r="4" fill="{colour}"/>'
    yield _text(WIDTH - RIGHT + 36, row + 4, series.name)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
