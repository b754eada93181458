"""`POST /v1/images/ocr`: a picture in, its lines of text out, with boxes and scores.

The picture comes as the file `image` of a form or as a data URL in JSON; other URLs are refused, so that
nobody can make this machine fetch anything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from collections.abc import Callable
from typing import Final, cast
from weakref import WeakKeyDictionary

import msgspec

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.abilities import OcrPage, OcrRequest, ReadText
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest
from ekiben.runtime.form import Form
from ekiben.runtime.http import Answer, Request, Route, check_model_name
from ekiben.runtime.images import FORMATS, upright_png

MAX_DECODED: Final = 2
"""Pictures in memory at once: one being read, the next one being decoded. Others wait as files."""

_MEDIA_TYPES: Final = frozenset({f"image/{name.lower()}" for name in FORMATS} | {"image/jpg"})

_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()


async def read_text(request: Request) -> Answer:
    """Answers only once the page is read; a client that leaves ends the work."""
    model, picture = (
        _from_form(request) if request.content_type.startswith("multipart/") else _from_json(request)
    )
    engine = cast(ReadText, request.loaded)
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_DECODED)):
        image = await asyncio.to_thread(lambda: upright_png(picture()))
        page = await engine.read_text(OcrRequest(image=image))
    return Answer(render(page, model=model))


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


def decode_data_url(url: object) -> bytes:
    """The bytes of `data:image/png;base64,…`. Raises InvalidRequest (param `image`)."""
    if not isinstance(url, str):
        raise _bad_image("must be a data URL, as in data:image/png;base64,…")
    if url[:5].lower() != "data:":
        raise _bad_image("must be a data URL, as in data:image/png;base64,…; other URLs are never fetched")
    head, comma, data = url[5:].partition(",")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or "base64" not in parameters:
        raise _bad_image("must be a data URL in base64, as in data:image/png;base64,…")
    if media_type not in _MEDIA_TYPES:
        raise _bad_image(
            f"has the media type {media_type[:50]!r}: send one of {', '.join(sorted(_MEDIA_TYPES))}"
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_image(f"is not valid base64: {error}") from None


def _from_json(request: Request) -> tuple[str, Callable[[], bytes]]:
    body = request.json()
    _refuse_unknown(list(body))
    model = check_model_name(request, body.get("model"))
    if "image" not in body:
        raise _bad_image("is required")
    data = decode_data_url(body["image"])
    return model, lambda: data


def _from_form(request: Request) -> tuple[str, Callable[[], bytes]]:
    form: Form = request.form()
    _refuse_unknown([*form.fields, *form.files])
    model = check_model_name(request, form.one("model"))
    if (upload := form.files.get("image")) is None:
        raise _bad_image("is required, as a file" if "image" not in form.fields else "must be sent as a file")
    return model, upload.path.read_bytes


def _refuse_unknown(names: list[str]) -> None:
    for name in names:
        if name not in ("model", "image"):
            raise InvalidRequest(f"{name[:64]!r} is not a field of this request", param=name)


def _bad_image(reason: str) -> InvalidRequest:
    return InvalidRequest(f"'image' {reason}", param="image")


ROUTES: Final = (Route("POST", "/v1/images/ocr", frozenset({Ability.READ_TEXT}), read_text),)
