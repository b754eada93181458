"""How much of a model's work is taken at once."""

from __future__ import annotations

from typing import Final

from ekiben.contract import LoadRequest
from ekiben_sentence_transformers.folder import ModelFolder

CHARACTERS: Final = 4
"""Of a token, roughly."""
LONGEST_TOKENS: Final = 2048
"""Inputs this long come few to a batch, so more of them together are not reckoned with."""


def batch_length(request: LoadRequest, folder: ModelFolder) -> int:
    """Tokens of a batch, padding and all."""
    length = int(request.options.get("max_length", folder.max_length()))
    return int(request.options["batch_size"]) * min(LONGEST_TOKENS, length)
