"""What the operator lets the platform use of each device: the setting `memory`, as a value.

auto                    90 % of the host's memory that others leave, 95 % of each GPU's
80%                     that share of every device
12GiB                   so much of the host; GPUs as with auto
cpu=12GiB,cuda:0=50%    by device; the others as with auto
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ekiben.errors import ConfigError

HOST_SHARE: Final = 0.90
"""The rest is for what nobody can foresee: the page cache that keeps the machine quick, and peaks."""
GPU_SHARE: Final = 0.95
"""Nothing else lives on most GPUs; the rest is for the context of the driver and fragmentation."""

_ITEM: Final = re.compile(
    r"(?:(?P<device>cpu|(?:cuda|rocm):\d+)=)?(?:(?P<share>\d+(?:\.\d+)?)%|(?P<size>\d+(?:\.\d+)?)(?P<unit>[KMGT]i?)?B?)"
)
_HOST: Final = "cpu"
_UNITS: Final = (
    {"": 1}
    | {letter: 10 ** (3 * n) for n, letter in enumerate("KMGT", 1)}
    | {f"{letter}i": 2 ** (10 * n) for n, letter in enumerate("KMGT", 1)}
)


@dataclass(frozen=True, slots=True)
class Amount:
    """A share of what there is, or a size."""

    share: float | None = None
    size_bytes: int | None = None

    def of(self, usable_bytes: int, *, limit_bytes: int) -> int:
        """In bytes. A share is of what others leave; a size is the operator's word, up to all there is."""
        if self.size_bytes is not None:
            return min(self.size_bytes, limit_bytes)
        return int(usable_bytes * (self.share or 0.0))


@dataclass(frozen=True, slots=True)
class Allowance:
    """The amount for each device."""

    everywhere: Amount | None = None
    devices: Mapping[str, Amount] = field(default_factory=dict)

    def amount(self, device: str) -> Amount:
        default = Amount(share=HOST_SHARE if device == _HOST else GPU_SHARE)
        return self.devices.get(device) or self.everywhere or default


def parse_allowance(text: str) -> Allowance:
    """Raises ConfigError."""
    if text.strip() == "auto":
        return Allowance()
    everywhere: Amount | None = None
    devices: dict[str, Amount] = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise ConfigError(
                f"the setting 'memory' cannot have {item.strip()!r}: write auto, a share like 80%, a size "
                "like 12GiB, or these by device: cpu=12GiB,cuda:0=90%"
            )
        amount = _amount(match)
        device = match["device"] or (_HOST if amount.share is None else None)
        if device in devices or (device is None and everywhere is not None):
            raise ConfigError(f"the setting 'memory' says two things of one device: {text!r}")
        if device is None:
            everywhere = amount
        else:
            devices[device] = amount
    return Allowance(everywhere, devices)


def _amount(match: re.Match[str]) -> Amount:
    if match["share"] is None:
        return Amount(size_bytes=int(float(match["size"]) * _UNITS[match["unit"] or ""]))
    share = float(match["share"]) / 100
    if share > 1:
        raise ConfigError(f"the setting 'memory' cannot be more than all there is: {match[0]!r}")
    return Amount(share=share)
