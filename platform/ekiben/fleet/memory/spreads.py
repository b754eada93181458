"""Over which devices a model may be spread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from ekiben.runtime.process.devices import together

MOST: Final = 64
"""Ways of one kind that are looked at; where there are more, only neighbours on the bus go together."""


def spreads(gpus: Sequence[str], count: int) -> list[str]:
    """Each way to choose so many devices of one kind, in the order that they have."""
    kinds = dict.fromkeys(gpu.partition(":")[0] for gpu in gpus)
    return [
        together(chosen)
        for kind in kinds
        for chosen in _chosen([gpu for gpu in gpus if gpu.partition(":")[0] == kind], count)
    ]


def _chosen(gpus: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    if math.comb(len(gpus), count) <= MOST:
        yield from itertools.combinations(gpus, count)
    else:
        yield from (tuple(gpus[first : first + count]) for first in range(len(gpus) - count + 1))
