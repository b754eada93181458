"""`POST /v1/images/ocr`: a picture in, its lines of text out, with boxes and scores."""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.abilities import OcrPage, OcrRequest, ReadText
from ekiben.contract.model import Ability
from ekiben.runtime.darkroom import darkroom
from ekiben.runtime.http import Answer, Request, Route
from ekiben.runtime.picture_request import picture_request


async def read_text(request: Request) -> Answer:
    """Answers only once the page is read; a client that leaves ends the work."""
    asked = picture_request(request, {})
    engine: ReadText = request.able(Ability.READ_TEXT)
    async with darkroom().developed(asked.image) as image:
        page = await engine.read_text(OcrRequest(image=image))
    return Answer(render(page, model=asked.model))


def render(page: OcrPage, *, model: str) -> bytes:
    """The response object, encoded."""
    lines = [
        {"text": line.text, "score": round(line.score, 6), "box": [list(corner) for corner in line.box]}
        for line in page.lines
    ]
    return msgspec.json.encode(
        {
            "id": f"ocr-{uuid.uuid4().hex}",
            "object": "ocr",
            "created": int(SYSTEM_CLOCK.now().timestamp()),
            "model": model,
            "text": "\n".join(line.text for line in page.lines),
            "width": page.width,
            "height": page.height,
            "lines": lines,
        }
    )


ROUTES: Final = (Route("POST", "/v1/images/ocr", frozenset({Ability.READ_TEXT}), read_text),)
