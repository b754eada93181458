"""The part of the conformance suite that is about pictures, seen and made, and about moderation.

Reached through `ekiben.contract.testing`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final

from ekiben.contract.abilities import Moderate, ModerateRequest
from ekiben.contract.conforming import expect
from ekiben.contract.pictures import (
    Classify,
    ClassifyRequest,
    Detect,
    DetectRequest,
    Drawn,
    DrawRequest,
    Picture,
)
from ekiben.errors import InvalidRequest

_WIDTH: Final = 64
_HEIGHT: Final = 48
_SEED: Final = 7
_STEPS: Final = 2


def blank_png(width: int, height: int) -> bytes:
    """A white picture (PNG specification, third edition)."""
    rows = b"".join(b"\x00" + b"\xff" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    out = io.BytesIO(b"")
    out.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        out.write(struct.pack(">I", len(data)) + kind + data)
        out.write(struct.pack(">I", zlib.crc32(kind + data)))
    return out.getvalue()


async def check_classify(model: Classify) -> None:
    """Labels with scores, the likeliest first: the model's own, or those of the request."""
    image = blank_png(_WIDTH, _HEIGHT)
    try:
        labels = await model.classify(ClassifyRequest(image=image))
    except InvalidRequest:  # it takes any words, and so wants some
        labels = await model.classify(ClassifyRequest(image=image, labels=("a lunch box", "a station")))
        expect({it.label for it in labels} == {"a lunch box", "a station"}, "the labels are the request's")
    expect(labels, "there is at least one label")
    _expect_scores(it.score for it in labels)


async def check_detect(model: Detect) -> None:
    """Objects with boxes inside the picture, the surest first."""
    found = await model.detect(DetectRequest(image=blank_png(_WIDTH, _HEIGHT), threshold=0.0))
    expect((found.width, found.height) == (_WIDTH, _HEIGHT), "the size is that of the picture")
    _expect_scores(it.score for it in found.objects)
    for it in found.objects:
        left, top, right, bottom = it.box
        expect(0 <= left <= right <= _WIDTH and 0 <= top <= bottom <= _HEIGHT, "boxes lie in the picture")


async def check_moderate(model: Moderate) -> None:
    """A judgement on each text."""
    answer = await model.moderate(ModerateRequest(texts=["The train leaves at nine.", "Go away."]))
    expect(len(answer.texts) == 2, "there is one judgement for each text")
    expect(answer.prompt_tokens > 0, "the tokens are counted")
    for judged in answer.texts:
        expect(all(0 <= score <= 1 for score in judged.scores.values()), "scores are from 0 to 1")
        expect(judged.flagged <= set(judged.scores), "what is flagged has a score")


async def check_drawing(draw: Callable[[DrawRequest], AsyncGenerator[Drawn, None]], *, edits: bool) -> None:
    """As many pictures as asked for; the same seed gives the same one again. `edits`: it begins from one."""
    images = (blank_png(_WIDTH, _WIDTH),) if edits else ()
    request = DrawRequest(prompt="a lunch box", steps=_STEPS, seed=_SEED, images=images)
    first, again = [await _pictures(draw(request)) for _ in range(2)]
    expect([it.index for it in first] == [0], "there is one picture, since one was asked for")
    (picture,) = first
    expect(picture.seed == _SEED, "its seed is the one asked for")
    size = picture.pixels.width * picture.pixels.height * 3
    expect(size > 0 and len(picture.pixels.data) == size, "it has three bytes for each pixel")
    expect(picture.pixels.data == again[0].pixels.data, "the same seed gives the same picture")


async def _pictures(news: AsyncGenerator[Drawn, None]) -> list[Picture]:
    async with aclosing(news):
        return [it async for it in news if isinstance(it, Picture)]


def _expect_scores(scores: Iterable[float]) -> None:
    given = list(scores)
    expect(all(0 <= score <= 1 for score in given), "scores are from 0 to 1")
    expect(given == sorted(given, reverse=True), "the highest score comes first")
