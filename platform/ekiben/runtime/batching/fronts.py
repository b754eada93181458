"""What each ability of a loaded model is asked through: the model itself, or the batcher before it.

All who ask the model of this process, the OpenAI routes and BentoML's native API, share its fronts, and so
its batches.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ekiben.contract.batching import Batched, Batching
from ekiben.contract.engine import LoadedModel
from ekiben.contract.fronts import front
from ekiben.contract.model import Ability
from ekiben.runtime.batching.batcher import Batcher, Lane, Watch


class Fronts:
    """Of one loaded model."""

    def __init__(
        self, loaded: LoadedModel, *, watch: Watch | None = None, target_s: float | None = None
    ) -> None:
        """`target_s`: how long a batch may take; None: as suits what a single item takes."""
        self.loaded = loaded
        self._batcher = Batcher(watch=watch)
        lanes: dict[int, Lane] = {}
        self._lanes = {
            ability: lanes.setdefault(id(batching), Lane(ability.value, batching, target_s=target_s))
            for ability, batching in _batching_of(loaded).items()
        }

    def able(self, ability: Ability, *, patience_s: float | None = None) -> Any:
        """An object of the ability's protocol. For abilities that the model's spec names.

        `patience_s`: how long its answers, or the next parts of them, are waited for, if less than usual.
        """
        if (lane := self._lanes.get(ability)) is None:
            return self.loaded
        return front(ability, _Driver(self._batcher, lane, patience_s))

    async def rest(self) -> None:
        """Returns when no batch is under way. Only while there are no requests."""
        await self._batcher.rest()

    async def close(self) -> None:
        """Nobody may ask any more. Not the model, which somebody else unloads."""
        await self._batcher.close()


class _Driver:
    """The batcher, for one lane."""

    def __init__(self, batcher: Batcher, lane: Lane, patience_s: float | None) -> None:
        self._batcher = batcher
        self._lane = lane
        self._patience_s = patience_s

    async def run(self, request: Any) -> Any:
        return await self._batcher.run(self._lane, request, patience_s=self._patience_s)

    def stream(self, request: Any) -> AsyncGenerator[Any, None]:
        return self._batcher.stream(self._lane, request, patience_s=self._patience_s)


def _batching_of(loaded: object) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
    return loaded.batching if isinstance(loaded, Batched) else {}
