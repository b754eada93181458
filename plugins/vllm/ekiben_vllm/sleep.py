"""A model that can leave its GPU and wait on the host."""

from __future__ import annotations

import logging
from typing import Final

from ekiben.contract import LoadFailed
from ekiben_vllm.model import VllmModel

logger = logging.getLogger(__name__)

_WEIGHTS_KEPT: Final = 1
"""vLLM's level of sleep that moves the weights to the host and drops the cache."""


class SleepyModel(VllmModel):
    """A LoadedModel and a Sleeper. The cache is computed anew after a sleep, the graphs are kept."""

    async def sleep(self) -> None:
        try:
            await self._service.engine.sleep(_WEIGHTS_KEPT)
        except Exception:
            # Then the device is as full as before, and `wake` says whether the engine still lives.
            logger.exception("vllm could not leave the device")

    async def wake(self) -> None:
        try:
            await self._service.engine.wake_up()
        except Exception as error:
            raise LoadFailed(f"vLLM cannot take the device again: {error}") from error
