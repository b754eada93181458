"""Tokens as texts and bytes, and answers put together from them piece by piece."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from ekiben.contract import InvalidRequest

BROKEN: Final = "\ufffd"
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST_CHARACTER: Final = 4
"""Bytes, and so tokens, of which a character may consist."""
_CONTEXT: Final = 6
"""Tokens of the prompt that decide how the first ones of an answer read."""


class Vocabulary:
    """The model's tokenizer, as far as requests need it. Blocking, quick, for any thread."""

    def __init__(self, tokenizer: Any, *, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        """Tokens are smaller than this."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._in_bytes = "ByteLevel" in str(getattr(backend, "decoder", ""))
        self._special = frozenset(tokenizer.all_special_ids)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens, without special ones unless asked for."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    def check(self, ids: Sequence[int], *, param: str) -> None:
        """Raises InvalidRequest for numbers that are no tokens."""
        for token in ids:
            if not 0 <= token < self.size:
                raise InvalidRequest(
                    f"{token} is not a token: the model knows 0 to {self.size - 1}", param=param
                )

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, which may be part of a character."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return b""
        if token in self._special or token in self.tokenizer.added_tokens_decoder:
            return str(name).encode()
        if self._in_bytes and all(letter in _bytes_of_letters() for letter in name):
            return bytes(_bytes_of_letters()[letter] for letter in name)
        if match := _BYTE.fullmatch(name):
            return bytes([int(match[1], 16)])
        return str(name).replace("▁", " ").encode()

    def text_of(self, token: int) -> str:
        """The same as text; a piece of a character reads as U+FFFD."""
        return self.bytes_of(token).decode("utf-8", "replace")

    def reader(self, prompt: Sequence[int], *, special: bool = False) -> TextReader:
        return TextReader(partial(self.decode, special=special), prompt)


class TextReader:
    """The text of an answer as its tokens come, never cut inside of a character."""

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        # Tokenizers write a token differently at the beginning of a text than after others.
        self._tokens = list(prompt[-_CONTEXT:])
        self._decode = decode
        self._start = 0
        self._read = len(self._tokens)

    def add(self, token: int) -> str:
        """What more is known of the text: nothing while a character is incomplete."""
        self._tokens.append(token)
        text = self._unread()
        if text.endswith(BROKEN) and len(self._tokens) - self._read < _LONGEST_CHARACTER:
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text

    def finish(self) -> str:
        """What is left of a character that was never completed."""
        text = self._unread() if self._read < len(self._tokens) else ""
        self._read = len(self._tokens)
        return text

    def _unread(self) -> str:
        before = self._decode(self._tokens[self._start : self._read])
        return self._decode(self._tokens[self._start :])[len(before) :]


@lru_cache(maxsize=1)
def _bytes_of_letters() -> dict[str, int]:
    """The alphabet in which byte-level tokenizers write bytes (GPT-2's)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
