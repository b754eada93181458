"""By what the platform remembers how a model runs: what it needed, how long it took to start."""

from __future__ import annotations

import hashlib
import json
from typing import Final, NamedTuple

from ekiben.contract.model import ModelSpec, Variant
from ekiben.fleet.processes.berths import Plan

_DIGEST_CHARACTERS: Final = 16


class RunKey(NamedTuple):
    """Runs with the same key are alike in memory and time; anything else learns for itself."""

    model: str
    engine: str
    options: str
    """A digest of the variant: its options, and the weights that it takes."""
    device: str

    @classmethod
    def of(cls, plan: Plan) -> RunKey:
        """The key of a plan on its device."""
        return cls.on(plan.device, plan.model, plan.variant)

    @classmethod
    def on(cls, device: str, model: ModelSpec, index: int) -> RunKey:
        """The key of a model's variant on a device."""
        variant = model.variants[index]
        return cls(model.name, variant.engine, _digest(variant), device)


def _digest(variant: Variant) -> str:
    text = json.dumps(variant.model_dump(mode="json", exclude={"engine"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
