"""`POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`: pictures that are made.

Whole, or as events: pictures of the state on the way, then each one that is done. In a stream, each step of
the work is told by a comment, so that nobody takes long work for a dead connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import msgspec

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import Ability
from ekiben.contract.pictures import (
    Drawn,
    DrawRequest,
    EditImage,
    GenerateImage,
    Picture,
    Pixels,
    Preview,
    Step,
)
from ekiben.errors import EngineError
from ekiben.runtime.http import Answer, Request, Route, Stream
from ekiben.runtime.vision.drawing_request import KEEPER_HEADER, Asked, edit, generation, variation

BACKGROUND: Final = "opaque"

Draw: TypeAlias = Callable[[DrawRequest], AsyncGenerator[Drawn, None]]


async def create(request: Request) -> Answer | Stream:
    """From a text."""
    engine: GenerateImage = request.able(Ability.GENERATE_IMAGE)
    return await _answer(request, generation(request), engine.generate_image, "image_generation")


async def change(request: Request) -> Answer | Stream:
    """From pictures and a text."""
    engine: EditImage = request.able(Ability.EDIT_IMAGE)
    return await _answer(request, edit(request), engine.edit_image, "image_edit")


async def vary(request: Request) -> Answer | Stream:
    """From a picture alone."""
    engine: EditImage = request.able(Ability.EDIT_IMAGE)
    return await _answer(request, variation(request), engine.edit_image, "image_edit")


async def _answer(request: Request, asked: Asked, draw: Draw, kind: str) -> Answer | Stream:
    draw = _told(request, draw)
    if asked.stream:
        return Stream(_events(asked, draw, kind))
    pictures: list[Picture] = []
    async with asked.developed() as wanted, aclosing(draw(wanted)) as drawing:
        pictures += [news async for news in drawing if isinstance(news, Picture)]
    if len(pictures) != asked.draw.n:
        raise EngineError(f"the engine made {len(pictures)} of {asked.draw.n} pictures")
    headers = {KEEPER_HEADER: "url"} if asked.as_urls else {}
    return Answer(await asyncio.to_thread(_rendered, asked, pictures), headers=headers)


def _told(request: Request, draw: Draw) -> Draw:
    """The same, while the platform is told of each step, of all the request's pictures together."""

    async def drawn(wanted: DrawRequest) -> AsyncGenerator[Drawn, None]:
        done = [0] * wanted.n
        async with aclosing(draw(wanted)) as drawing:
            async for news in drawing:
                if isinstance(news, Step):
                    done[news.index] = news.done
                    request.tell(sum(done), total=news.total * wanted.n, unit="steps")
                yield news

    return drawn


def _rendered(asked: Asked, pictures: list[Picture]) -> bytes:
    return msgspec.json.encode(
        {
            "created": int(SYSTEM_CLOCK.now().timestamp()),
            "background": BACKGROUND,
            "output_format": asked.format.name,
            "size": _size(pictures[0].pixels),
            "data": [
                {"b64_json": asked.format.encode_base64(picture.pixels), "seed": picture.seed}
                for picture in sorted(pictures, key=lambda picture: picture.index)
            ],
            "usage": _usage(pictures[0]) | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}},
        }
    )


async def _events(asked: Asked, draw: Draw, kind: str) -> AsyncGenerator[bytes, None]:
    async with asked.developed() as wanted, aclosing(draw(wanted)) as drawing:
        async for news in drawing:
            if isinstance(news, Step):
                yield b": picture %d, step %d of %d\n\n" % (news.index + 1, news.done, news.total)
            else:
                yield await asyncio.to_thread(_event, asked, news, kind)


def _event(asked: Asked, news: Preview | Picture, kind: str) -> bytes:
    event: dict[str, Any] = {
        "type": f"{kind}.{'partial_image' if isinstance(news, Preview) else 'completed'}",
        "b64_json": asked.format.encode_base64(news.pixels),
        "created_at": int(SYSTEM_CLOCK.now().timestamp()),
        "size": _size(news.pixels),
        "quality": "auto",
        "background": BACKGROUND,
        "output_format": asked.format.name,
    }
    if isinstance(news, Preview):
        event["partial_image_index"] = news.number
    else:
        event |= {"usage": _usage(news), "seed": news.seed}
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _usage(picture: Picture) -> dict[str, Any]:
    """Such models read tokens, and make none."""
    return {
        "input_tokens": picture.prompt_tokens,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": picture.prompt_tokens},
        "output_tokens": 0,
        "total_tokens": picture.prompt_tokens,
    }


def _size(pixels: Pixels) -> str:
    return f"{pixels.width}x{pixels.height}"


ROUTES: Final = (
    Route("POST", "/v1/images/generations", frozenset({Ability.GENERATE_IMAGE}), create),
    Route("POST", "/v1/images/edits", frozenset({Ability.EDIT_IMAGE}), change),
    Route("POST", "/v1/images/variations", frozenset({Ability.EDIT_IMAGE}), vary),
)
