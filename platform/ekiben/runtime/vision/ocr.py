"""`POST /v1/images/ocr`: a picture or a PDF in, its lines of text out, with boxes and scores."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.abilities import OcrPage, OcrRequest, ReadText
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest
from ekiben.runtime.http import Answer, Request, Route
from ekiben.runtime.vision.darkroom import Source, darkroom
from ekiben.runtime.vision.pdf import PDF_TYPE, is_pdf, opened
from ekiben.runtime.vision.picture_request import PICTURE_TYPES, Field, Number, picture_request

_FIELDS: Final[Mapping[str, Field]] = {
    "first_page": Number(minimum=1, maximum=10**6, default=None, whole=True),
    "last_page": Number(minimum=1, maximum=10**6, default=None, whole=True),
}


async def read_text(request: Request) -> Answer:
    """Answers only once all is read; a client that leaves ends the work."""
    asked = picture_request(request, _FIELDS, types=PICTURE_TYPES | {PDF_TYPE})
    engine: ReadText = request.able(Ability.READ_TEXT)
    head: dict[str, Any] = {
        "id": f"ocr-{uuid.uuid4().hex}",
        "object": "ocr",
        "created": int(SYSTEM_CLOCK.now().timestamp()),
        "model": asked.model,
    }
    return Answer(msgspec.json.encode(head | await read(asked.image, engine, **asked.fields)))


async def read(
    source: Source, engine: ReadText, *, first_page: int | None = None, last_page: int | None = None
) -> dict[str, Any]:
    """What is on a picture, or on the pages of a PDF. Raises InvalidRequest."""
    if await asyncio.to_thread(is_pdf, source):
        async with aclosing(_pages(source, engine, first=first_page or 1, last=last_page)) as pages:
            return rendered_document([page async for page in pages])
    for name, value in (("first_page", first_page), ("last_page", last_page)):
        if value is not None:
            raise InvalidRequest(f"{name!r} is for PDF files, and this is none", param=name)
    async with darkroom().developed(source) as image:
        return rendered_page(await engine.read_text(OcrRequest(image=image)))


async def _pages(
    source: Source, engine: ReadText, *, first: int, last: int | None
) -> AsyncGenerator[tuple[int, OcrPage], None]:
    """One after the other: between them, others have their turn."""
    async with (
        opened(source, first=first, last=last) as (document, numbers),
        aclosing(document.pictures(numbers)) as drawn,
    ):
        async for number, picture in drawn:
            async with darkroom().developed(picture) as image:
                page = await engine.read_text(OcrRequest(image=image))
            yield number, page


def rendered_document(pages: Sequence[tuple[int, OcrPage]]) -> dict[str, Any]:
    shown = [{"page": number} | rendered_page(page) for number, page in pages]
    return {"text": "\n\n".join(page["text"] for page in shown), "pages": shown}


def rendered_page(page: OcrPage) -> dict[str, Any]:
    lines = [
        {"text": line.text, "score": round(line.score, 6), "box": [list(corner) for corner in line.box]}
        for line in page.lines
    ]
    return {
        "text": "\n".join(line.text for line in page.lines),
        "width": page.width,
        "height": page.height,
        "lines": lines,
    }


ROUTES: Final = (Route("POST", "/v1/images/ocr", frozenset({Ability.READ_TEXT}), read_text),)
