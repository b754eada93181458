"""Tokens that clients send instead of texts: what stands around them, and which of them there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from ekiben.contract import EmbedInput, InvalidRequest


@dataclass(frozen=True, slots=True)
class TokenInput:
    """How a model takes tokens."""

    before: list[int]
    """Special tokens at the beginning of every input, and at its end."""
    after: list[int]
    vocabulary: int
    """Tokens are smaller than this."""

    def check(self, inputs: Sequence[EmbedInput]) -> None:
        """Raises InvalidRequest for tokens that the model does not have."""
        for index, tokens in enumerate(inputs):
            for token in tokens if isinstance(tokens, list) else ():
                if not 0 <= token < self.vocabulary:
                    raise InvalidRequest(
                        f"entry {index} of 'input' has the token {token}, "
                        f"the model knows 0 to {self.vocabulary - 1}",
                        param="input",
                    )

    def framed(self, tokens: list[int], *, max_length: int | None = None) -> list[int]:
        """The tokens with the special ones, which clients may or may not have sent along, cut to length."""
        if self.before and tokens[: len(self.before)] == self.before:
            tokens = tokens[len(self.before) :]
        if self.after and tokens[-len(self.after) :] == self.after:
            tokens = tokens[: -len(self.after)]
        if max_length is not None:
            tokens = tokens[: max(0, max_length - len(self.before) - len(self.after))]
        return [*self.before, *tokens, *self.after]


def token_input(model: SentenceTransformer) -> TokenInput | None:
    """None for a model that is fed by more than a tokenizer, which then takes texts only."""
    first = model[0]
    if not isinstance(first, Transformer) or "message" in first.modality_config or first.tokenizer is None:
        return None
    bare: list[int] = first.tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = first.tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return TokenInput(full[:start], full[start + len(bare) :], _vocabulary(first))
    return None


def _vocabulary(first: Any) -> int:
    try:
        return int(first.auto_model.get_input_embeddings().num_embeddings)
    except NotImplementedError:  # models of more than texts have more than one way in
        return len(first.tokenizer)
