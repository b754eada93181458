"""One device of the machine, made the only one that a process sees.

The platform counts devices as the driver does, on the bus; a process counts those that it may see. An
engine is always given the first, and a process for the CPU sees none, so that no library takes memory of a
GPU for nothing.
"""

from __future__ import annotations

from typing import Final

_VARIABLE: Final = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES"}


def visible(device: str) -> dict[str, str]:
    """The variables which say so, for before anything touches a GPU."""
    kind, _, index = device.partition(":")
    if kind not in _VARIABLE:
        return dict.fromkeys(_VARIABLE.values(), "")
    # Unless told of the bus, CUDA counts the fastest first.
    return {_VARIABLE[kind]: index or "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def as_seen(device: str) -> str:
    """What the device is called by a process that sees only it."""
    kind, colon, _ = device.partition(":")
    return f"{kind}:0" if colon else device
