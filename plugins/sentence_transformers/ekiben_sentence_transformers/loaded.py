"""A loaded model: what it hands out to be batched, and its way from the device and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ekiben.contract import Ability, Batching, LoadFailed
from ekiben.contract.threads import WorkerThread


class LoadedEncoder:
    """The LoadedModel. All its work is in its Batching."""

    def __init__(
        self, model: torch.nn.Module, ability: Ability, batching: Batching[Any, Any, Any, Any]
    ) -> None:
        self._model: torch.nn.Module | None = model
        self.batching: Mapping[Ability, Batching[Any, Any, Any, Any]] = {ability: batching}

    async def unload(self) -> None:
        self._model = None
        self.batching = {}


class SleepyEncoder(LoadedEncoder):
    """One that can leave its GPU and wait on the host: a LoadedModel and a Sleeper."""

    def __init__(
        self,
        model: torch.nn.Module,
        ability: Ability,
        batching: Batching[Any, Any, Any, Any],
        *,
        device: str,
        worker: WorkerThread,
    ) -> None:
        super().__init__(model, ability, batching)
        self._device = device
        self._worker = worker

    async def unload(self) -> None:
        await super().unload()
        self._worker.close()

    async def sleep(self) -> None:
        await self._worker.run(self._move, "cpu")

    async def wake(self) -> None:
        await self._worker.run(self._move, self._device)

    def _move(self, device: str) -> None:
        """Have the weights elsewhere. Raises LoadFailed when there is no room for them."""
        assert self._model is not None, "moved after it was unloaded"
        try:
            self._model.to(device)
        except torch.OutOfMemoryError as error:
            raise LoadFailed(f"the model does not fit on {device!r} any more: {error}") from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
