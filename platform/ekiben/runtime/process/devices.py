"""The devices of one replica, made the only ones that its process sees.

A device is written `cpu`, `cuda:1`, or, where a model is spread over several of a kind, `cuda:0+cuda:1`.
The platform counts devices as the driver does, on the bus; a process counts those that it may see. An
engine is always given the first ones, and a process for the CPU sees none, so that no library takes memory
of a GPU for nothing.
"""

from __future__ import annotations

from typing import Final

_BETWEEN: Final = "+"
_VARIABLE: Final = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES"}


def parts(device: str) -> tuple[str, ...]:
    """The single devices in the text of one or of several."""
    return tuple(device.split(_BETWEEN))


def together(devices: tuple[str, ...]) -> str:
    """The text of several devices, as `parts` takes it apart."""
    return _BETWEEN.join(devices)


def visible(device: str) -> dict[str, str]:
    """The variables which say so, for before anything touches a GPU."""
    kind = device.partition(":")[0]
    if kind not in _VARIABLE:
        return dict.fromkeys(_VARIABLE.values(), "")
    indices = [part.partition(":")[2] or "0" for part in parts(device)]
    # Unless told of the bus, CUDA counts the fastest first.
    return {_VARIABLE[kind]: ",".join(indices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def as_seen(device: str) -> str:
    """What the devices are called by a process that sees only them."""
    kind, colon, _ = device.partition(":")
    if not colon:
        return device
    return together(tuple(f"{kind}:{number}" for number, _ in enumerate(parts(device))))
