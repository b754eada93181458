"""Hashes of how a request begins, so that a conversation finds the replica that has its beginning in memory.

Pure, and bounded whatever the request holds: one digest runs along the body's own bytes and is read at each
message, or each block of a prompt. Equal hashes mean an equal beginning as the client wrote it; a client
that writes the same in other words only loses the advantage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

MAX_PREFIXES: Final = 64
"""What comes after so many messages or blocks tells no two conversations apart that were not apart before."""
MESSAGE_BYTES: Final = 16 * 1024
"""So much of a message is hashed, and its length: a picture need not be read to the end."""
BLOCK_BYTES: Final = 1024
HASH_BYTES: Final = 8


class _Chat(msgspec.Struct):
    """Pieces of the body as they came."""

    messages: list[msgspec.Raw] = []
    tools: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    """In Anthropic's dialect, where it is no message."""


class _Completion(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw(b"")


class _Response(msgspec.Struct):
    input: list[msgspec.Raw] | str = ""
    instructions: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")


_CHAT: Final = msgspec.json.Decoder(_Chat)
_COMPLETION: Final = msgspec.json.Decoder(_Completion)
_RESPONSE: Final = msgspec.json.Decoder(_Response)


def chat_prefixes(body: bytes) -> tuple[int, ...]:
    """One for each message: of all up to it, the shortest first. Tools are part of every prompt."""
    try:
        chat = _CHAT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ()  # the replica tells the client
    return tuple(_running(_messages(chat.messages), seed=bytes(chat.tools) + bytes(chat.system)))


def prompt_prefixes(body: bytes) -> tuple[int, ...]:
    """One for each whole block of the prompt; what is left over may still grow."""
    try:
        prompt = memoryview(_COMPLETION.decode(body).prompt)
    except (msgspec.DecodeError, RecursionError):
        return ()
    whole = (len(prompt) - 1) // BLOCK_BYTES  # the last byte is a quote or a bracket, not of the prompt
    blocks = (prompt[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES] for n in range(whole))
    return tuple(_running(blocks, seed=b""))


def response_prefixes(body: bytes) -> tuple[int, ...]:
    """One for each item of the input, behind instructions and tools."""
    try:
        response = _RESPONSE.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ()
    given = response.input
    items = [given.encode()] if isinstance(given, str) else given
    return item_prefixes(items, bytes(response.instructions) + bytes(response.tools))


def item_prefixes(items: Iterable[msgspec.Raw | bytes], seed: bytes) -> tuple[int, ...]:
    """One for each item: of all up to it."""
    return tuple(_running(_messages(items), seed=seed))


def _messages(messages: Iterable[msgspec.Raw | bytes]) -> Iterator[bytes]:
    for message in messages:
        view = memoryview(message)
        yield b"%d:%b" % (len(view), bytes(view[:MESSAGE_BYTES]))


def _running(pieces: Iterable[bytes | memoryview], *, seed: bytes) -> Iterator[int]:
    digest = hashlib.blake2b(seed, digest_size=HASH_BYTES)
    for piece in islice(pieces, MAX_PREFIXES):
        digest.update(piece)
        yield int.from_bytes(digest.copy().digest())
