"""The naps of a ready replica: the platform says sleep and wake, and hears what is held afterwards.

Knows nothing of the engine, which the host does, and nothing of why the platform wants the device.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from ekiben.clock import SYSTEM_CLOCK
from ekiben.errors import EkibenError
from ekiben.runtime.host import ModelHost
from ekiben.runtime.process.channel import Channel
from ekiben.runtime.process.footprint import descendants, host_bytes
from ekiben.runtime.process.gpu_memory import held_on
from ekiben.runtime.protocol import SLEEP, WAKE, Report, Stage

logger = logging.getLogger(__name__)


class Naps:
    """Of one replica. `on_failure` ends the process, after the platform was told why.

    `on_given_up` is called when the platform hangs up on a slept replica: the next one would have no way
    to wake it.
    """

    def __init__(
        self,
        host: ModelHost,
        channel: Channel,
        *,
        device: str,
        on_given_up: Callable[[], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._host = host
        self._channel = channel
        self._device = device
        self._on_given_up = on_given_up
        self._on_failure = on_failure
        self._listening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Listen to the platform, if there is anything that it could say."""
        if self._host.sleeps:
            self._listening = asyncio.create_task(self._listen(), name="naps")

    def tell_ready(self, stages_s: Mapping[str, float]) -> None:
        """With what is held now. Blocks for milliseconds."""
        self._tell(Stage.READY, stages_s)

    async def _listen(self) -> None:
        try:
            async for word in self._channel.words():
                await self._obey(word)
        except EkibenError:  # of which the host has told
            self._on_failure()
        if self._host.asleep:
            self._on_given_up()

    async def _obey(self, word: bytes) -> None:
        began_s = SYSTEM_CLOCK.monotonic()
        if word == SLEEP and not self._host.asleep:
            await self._host.sleep()
            self._tell(Stage.SLEPT, {"sleep": _since(began_s)})
        elif word == WAKE and self._host.asleep:
            await self._host.wake()
            self._tell(Stage.READY, {"wake": _since(began_s)})
        else:
            logger.warning("the platform said %r, which is nothing to do now", word)

    def _tell(self, stage: Stage, stages_s: Mapping[str, float]) -> None:
        pid = os.getpid()
        host = host_bytes(pid)
        held = held_on(self._device, {pid, *descendants(pid)})
        logger.info("%s: %d MB of the host's memory", stage, (host or 0) // 10**6)
        self._channel.report(
            Report(
                stage=stage,
                memory_bytes=None if host is None else host + sum(held.values()),
                host_bytes=host,
                device_bytes=max(held.values(), default=None),
                sleeps=self._host.sleeps,
                detail={"stages_s": dict(stages_s)},
            )
        )


def _since(began_s: float) -> float:
    return round(SYSTEM_CLOCK.monotonic() - began_s, 3)
