"""What the platform may hold on each device, watched as others take memory and give it back.

Of the host, a share of what others leave: all that is in use and not held by replicas and zygotes is
theirs, the platform itself included. Of a GPU, a share of what was not in use at the quietest moment
so far, since who holds how much of it often cannot be told. Budgets go up at once and come down only when
less was seen for several looks, so that a load in the middle of a look does no harm.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ekiben.fleet.memory.allowance import Allowance
from ekiben.fleet.memory.host import Host, held_bytes, read_host
from ekiben.plugins.gpus import GpuReader

logger = logging.getLogger(__name__)

HOST: Final = "cpu"
LOOK_EVERY_S: Final = 5.0
LOOKS: Final = 3
"""So many looks in a row must see less before less is believed."""
STEPS: Final = 128
"""Of all that there is: a budget changes in steps of this part, so that it does not change all the time."""


class Budgets:
    """Looks in a thread of its own; `now` only gives what was seen last."""

    def __init__(
        self,
        allowance: Allowance,
        *,
        gpus: Sequence[GpuReader] = (),
        host: Callable[[], Host] = read_host,
        held: Callable[[Iterable[int]], int] = held_bytes,
    ) -> None:
        self._allowance = allowance
        self._gpus = gpus
        self._host = host
        self._held = held
        self._own: Callable[[], Iterable[int]] = tuple
        self._others: deque[int] = deque(maxlen=LOOKS)
        self._gpu_others: dict[str, int] = {}
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: dict[str, int] = {}

    def now(self) -> dict[str, int]:
        """Bytes by device. Blocks for milliseconds when it is asked for the first time, and never again."""
        if not self._seen:
            self.look()
        return self._seen

    def watch(self, own: Callable[[], Iterable[int]]) -> None:
        """Go on looking. `own`: the processes whose memory is in the budget; called from another
        thread."""
        self._own = own
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Read everything once. Blocks for milliseconds."""
        self._seen = {HOST: self._look_at_host(), **self._look_at_gpus()}

    def _run(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            try:
                self.look()
            except (OSError, ValueError) as error:
                logger.warning("the memory of this machine cannot be read: %s", error)

    def _look_at_host(self) -> int:
        own = self._held(self._own())  # before the rest: what is taken meanwhile is reckoned to others
        host = self._host()
        self._others.append(max(0, host.limit_bytes - host.available_bytes - own))
        usable = _step_down(host.limit_bytes - min(self._others), host.limit_bytes)
        return self._allowance.amount(HOST).of(max(0, usable), limit_bytes=host.limit_bytes)

    def _look_at_gpus(self) -> dict[str, int]:
        budgets = {}
        for gpu in (gpu for reader in self._gpus for gpu in reader.read()):
            others = self._gpu_others.get(gpu.device, gpu.used_bytes)
            self._gpu_others[gpu.device] = others = min(others, gpu.used_bytes)
            amount = self._allowance.amount(gpu.device)
            budgets[gpu.device] = amount.of(gpu.total_bytes - others, limit_bytes=gpu.total_bytes)
        return budgets


def _step_down(size_bytes: int, limit_bytes: int) -> int:
    step = max(1, limit_bytes // STEPS)
    return size_bytes // step * step
