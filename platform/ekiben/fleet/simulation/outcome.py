"""What a policy made of a scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """Counts up while a run goes on."""

    requests: int = 0
    loads: int = 0
    waits_s: list[float] = field(default_factory=list)
    """Of the requests that found no ready model; the others did not wait."""
    byte_seconds: float = 0.0
    """Memory held, from the start of each load to the unload."""
    refused: int = 0
    """Requests for models that are larger than the memory."""

    @property
    def cold_share(self) -> float:
        return len(self.waits_s) / self.requests if self.requests else 0.0

    @property
    def mean_wait_s(self) -> float:
        """Over all requests, warm ones too."""
        return math.fsum(self.waits_s) / self.requests if self.requests else 0.0

    def wait_quantile_s(self, share: float) -> float:
        """Over all requests: the least wait that this share of them did not exceed."""
        warm = self.requests - len(self.waits_s)
        rank = math.ceil(share * self.requests)
        return sorted(self.waits_s)[rank - warm - 1] if rank > warm else 0.0

    @property
    def memory_gb_hours(self) -> float:
        return self.byte_seconds / 1e9 / 3600
