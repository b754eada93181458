"""The `input` of a request for vectors: what it may be, and how its pictures are decoded.

Pictures come as data URLs; others are refused, so that nobody can make this machine fetch anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias

from ekiben.contract.abilities import EmbedImage, EmbedInput
from ekiben.errors import InvalidRequest
from ekiben.runtime.vision.darkroom import darkroom
from ekiben.runtime.vision.images import MAX_PIXELS, pixel_count, upright_png
from ekiben.runtime.vision.picture_request import decode_data_url

Given: TypeAlias = str | list[int] | bytes
"""A text, tokens, or a picture as it was sent."""

MAX_INPUTS: Final = 2048
MAX_INPUT_CHARACTERS: Final = 2**18
MAX_INPUT_TOKENS: Final = 2**16


def parse_input(value: object) -> Sequence[Given]:
    """One text, tokens, or up to 2048 texts, token arrays or parts. Raises InvalidRequest (param `input`)."""
    if value is None:
        raise _bad_input("is required")
    if isinstance(value, str):
        return [_text(value)]
    if not isinstance(value, list):
        raise _bad_input("must be a text, a list of texts, a list of tokens or a list of token lists")
    if not value:
        raise _bad_input("is an empty list")
    if _is_token(value[0]):
        return [_tokens(value)]
    if len(value) > MAX_INPUTS:
        raise _bad_input(f"has {len(value)} entries, the limit is {MAX_INPUTS}")
    if any(isinstance(entry, dict) for entry in value):
        return _parts(value)
    if isinstance(value[0], list):
        return [_tokens(entry, index) for index, entry in enumerate(value)]
    return [_text(entry, index) for index, entry in enumerate(value)]


def _parts(value: list[Any]) -> list[str | bytes]:
    """One input each: `{"text": …}`, `{"image": …}`, or content parts as of a chat."""
    inputs: list[str | bytes] = []
    for index, entry in enumerate(value):
        match entry:
            case str():
                inputs.append(_text(entry, index))
            case {"type": "text", "text": text, **rest} | {"text": text, **rest} if not rest:
                inputs.append(_text(text, index))
            case {"type": "image_url", "image_url": {"url": url}, **rest} | {"image": url, **rest} if (
                not rest
            ):
                inputs.append(_picture(url, index))
            case _:
                raise _bad_input("must be a text, {'text': …} or {'image': …}", index)
    return inputs


def _picture(url: object, index: int) -> bytes:
    try:
        return decode_data_url(url)
    except InvalidRequest as error:
        raise _bad_input(error.message.removeprefix("'image' "), index) from None


@asynccontextmanager
async def developed(given: Sequence[Given]) -> AsyncGenerator[list[EmbedInput], None]:
    """The inputs with their pictures decoded, which keep their room until the end. Raises InvalidRequest."""
    pictures = {index: entry for index, entry in enumerate(given) if isinstance(entry, bytes)}
    inputs: list[Any] = list(given)
    if not pictures:
        yield inputs
        return
    pixels = 0
    for index, data in pictures.items():
        with _of_entry(index):
            pixels += await asyncio.to_thread(pixel_count, data)
        if pixels > MAX_PIXELS:
            raise _bad_input(f"has more than {MAX_PIXELS:,} pixels in all its pictures")
    async with darkroom().room(pixels):
        for index, data in pictures.items():
            with _of_entry(index):
                inputs[index] = EmbedImage(await asyncio.to_thread(upright_png, data))
        yield inputs


@contextmanager
def _of_entry(index: int) -> Iterator[None]:
    try:
        yield
    except InvalidRequest as error:
        raise _bad_input(error.message.removeprefix("the picture "), index) from None


def _text(value: object, index: int | None = None) -> str:
    if not isinstance(value, str):
        raise _bad_input("must be a text; all entries must be of one kind", index)
    if not value:
        raise _bad_input("is an empty text", index)
    if len(value) > MAX_INPUT_CHARACTERS:
        raise _bad_input(f"has {len(value)} characters, the limit is {MAX_INPUT_CHARACTERS}", index)
    if not _is_unicode(value):
        raise _bad_input("has half of a surrogate pair, which is no character", index)
    return value


def _tokens(value: object, index: int | None = None) -> list[int]:
    if not isinstance(value, list) or not all(map(_is_token, value)):
        raise _bad_input("must be a list of tokens, which are whole numbers from 0", index)
    if not value:
        raise _bad_input("is an empty list", index)
    if len(value) > MAX_INPUT_TOKENS:
        raise _bad_input(f"has {len(value)} tokens, the limit is {MAX_INPUT_TOKENS}", index)
    return value


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _bad_input(reason: str, index: int | None = None) -> InvalidRequest:
    subject = "'input'" if index is None else f"entry {index} of 'input'"
    return InvalidRequest(f"{subject} {reason}", param="input")
