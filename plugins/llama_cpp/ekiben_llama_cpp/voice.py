"""What is known of a loaded model when a request for it is translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ekiben_llama_cpp.messages import MessageReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    loaded_as: str
    """The name that llama.cpp writes into its answers."""
    messages: MessageReader = field(default_factory=MessageReader)
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Names, and llama.cpp's numbers for them."""
    template_fields: frozenset[str] = frozenset()
    """What a request may set of the chat template."""

    def adapted(self, adapter: str | None) -> dict[str, Any]:
        """The field of a request that says which adapters take part in its answer.

        All are named each time: with none named, llama.cpp would go on from what another adapter left in
        the slot.
        """
        if not self.adapters:
            return {}
        scales = {number: float(name == adapter) for name, number in self.adapters.items()}
        return {"lora": [{"id": number, "scale": scale} for number, scale in scales.items()]}
