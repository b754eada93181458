"""Grammars that answers must follow: JSON schemas, regular expressions, choices, by llguidance.

Compiling blocks, the first time for as long as it takes to read the tokenizer: call it on a thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer

from ekiben.contract import EngineError, InvalidRequest

_COMPACT: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""A small model that may write white space writes nothing else."""


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((1, (size + 31) // 32), dtype=np.int32)

    def mask(self, scores: torch.Tensor) -> None:
        """Rule out, in place, every token that cannot come next."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise EngineError(f"the grammar cannot be followed any further: {self._matcher.get_error()}")
        allowed = np.unpackbits(self._bits.view(np.uint8).reshape(-1), bitorder="little")
        ruled_out = torch.from_numpy(allowed[: scores.shape[-1]] == 0)
        scores.masked_fill_(ruled_out.to(scores.device), float("-inf"))

    def accept(self, token: int) -> bool:
        """Step over a token. Whether the grammar is at its end, so that nothing can follow."""
        self._matcher.consume_token(token)
        return self._matcher.is_stopped()


class Grammars:
    """The grammars of one model's tokenizer."""

    def __init__(self, tokenizer: Any, *, size: int, ends: Sequence[int]) -> None:
        """`size`: how many scores the model gives. `ends`: the tokens that end an answer."""
        self._tokenizer = tokenizer
        self._size = size
        self._ends = list(ends)
        self._reader: llguidance.LLTokenizer | None = None

    def compile(self, source: str, *, param: str) -> Grammar:
        """Of what the functions below give. Raises InvalidRequest when it is none that can be followed."""
        if self._reader is None:
            self._reader = from_tokenizer(self._tokenizer, n_vocab=self._size, eos_token=self._ends)
        matcher = llguidance.LLMatcher(self._reader, source, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0][:200]
            raise InvalidRequest(f"{param!r} cannot be followed: {reason}", param=param)
        return Grammar(matcher, self._size)


def of_schema(schema: Any, *, param: str) -> str:
    """Raises InvalidRequest."""
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_COMPACT)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the schema is none: {str(error)[:200]}", param=param) from None


def of_regex(pattern: str) -> str:
    return llguidance.LLMatcher.grammar_from_regex(pattern)


def of_lark(source: str) -> str:
    return llguidance.LLMatcher.grammar_from_lark(source)


def of_choices(texts: Sequence[str]) -> str:
    """One of the texts, and nothing else."""
    return of_lark("start: " + " | ".join(json.dumps(text) for text in texts))
