"""Texts with a gap: what stands before and after it, in the order in which models were trained to fill it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ekiben.contract import UnsupportedParameter
from ekiben.contract.gguf import GgufModel
from ekiben_llama_cpp.client import LlamaClient

_KEYS: Final = (
    ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
    ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
    ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
)
"""Where headers name the tokens; the second of each is the older way."""

_NAMES: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
)
"""What they are called in vocabularies whose headers do not name them."""


class Infill:
    """Puts a prompt and a suffix around the gap."""

    def __init__(self, client: LlamaClient, model: GgufModel) -> None:
        self._client = client
        self._marks = _marks_of(model)
        self._looked = self._marks is not None

    async def prompt(self, before: str | Sequence[int], after: str) -> list[int]:
        """The tokens to begin with. Raises UnsupportedParameter where the model cannot fill gaps."""
        if not self._looked:
            self._marks = await self._found()
            self._looked = True
        if self._marks is None:
            raise UnsupportedParameter(
                "'suffix' cannot be honoured: this model was not made to fill gaps", param="suffix"
            )
        prefix, suffix, middle = self._marks
        ahead = await self._tokens(before) if isinstance(before, str) else list(before)
        return [prefix, *ahead, suffix, *await self._tokens(after), middle]

    async def _found(self) -> tuple[int, ...] | None:
        for names in _NAMES:
            tokens = [await self._tokens(name) for name in names]
            if all(len(found) == 1 for found in tokens):
                return tuple(found[0] for found in tokens)
        return None

    async def _tokens(self, text: str) -> list[int]:
        return [token["id"] for token in await self._client.tokenize(text, special=False)]


def _marks_of(model: GgufModel) -> tuple[int, ...] | None:
    named = [[model.metadata[key] for key in keys if key in model.metadata] for keys in _KEYS]
    return tuple(int(found[0]) for found in named) if all(named) else None
