"""The order in which a person reads the lines of a page."""

from __future__ import annotations

from collections.abc import Sequence

from ekiben.contract import OcrLine


def in_reading_order(lines: Sequence[OcrLine]) -> list[OcrLine]:
    """Rows from top to bottom, each from left to right.

    Two pieces are of one row when the middle of one lies within the height of the other: a fixed distance
    in pixels would tear large rows apart and join small ones.
    """
    rows: list[list[OcrLine]] = []
    for line in sorted(lines, key=_middle):
        row = rows[-1] if rows else []
        if row and _top(row[0]) <= _middle(line) <= _bottom(row[0]):
            row.append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=_left)]


def _left(line: OcrLine) -> float:
    return min(x for x, _ in line.box)


def _top(line: OcrLine) -> float:
    return min(y for _, y in line.box)


def _bottom(line: OcrLine) -> float:
    return max(y for _, y in line.box)


def _middle(line: OcrLine) -> float:
    return (_top(line) + _bottom(line)) / 2
