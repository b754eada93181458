"""What each ability of a loaded model is asked through: the model itself, or the batcher before it.

All who ask the model of this process, the OpenAI routes and BentoML's native API, share its fronts, and so
its batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ekiben.contract.batching import Batched, Batching
from ekiben.contract.engine import LoadedModel
from ekiben.contract.fronts import front
from ekiben.contract.model import Ability
from ekiben.contract.testing_batching import Alone


class Fronts:
    """Of one loaded model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._batched = {
            ability: front(ability, Alone(batching)) for ability, batching in _batching_of(loaded).items()
        }

    def able(self, ability: Ability) -> Any:
        """An object of the ability's protocol. For abilities that the model's spec names."""
        return self._batched.get(ability, self.loaded)


def _batching_of(loaded: object) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
    return loaded.batching if isinstance(loaded, Batched) else {}
