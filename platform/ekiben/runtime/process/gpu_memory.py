"""What processes hold of the machine's GPUs, by the driver's word."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ekiben.runtime.process.devices import parts

logger = logging.getLogger(__name__)


def held_on(device: str, pids: Collection[int]) -> dict[str, int]:
    """Bytes by device, of all that `device` names; empty for the CPU, and where the driver does not say."""
    held: dict[str, int] = {}
    for part in parts(device):
        held |= _held_on_one(part, pids)
    return held


def _held_on_one(device: str, pids: Collection[int]) -> dict[str, int]:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return {}
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(index or 0))
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        logger.debug("the memory of %s is not known: %s", device, error)
        return {}
    # In a container with process ids of its own, the driver names others: nothing is found then.
    held = [process.usedGpuMemory for process in running if process.pid in pids]
    return {device: sum(held)} if held and None not in held else {}
