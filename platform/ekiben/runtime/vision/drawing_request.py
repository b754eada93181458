"""Requests for pictures, read from JSON or a form: what is to be drawn, and how it is to be answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from ekiben.contract.pictures import DrawRequest
from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.form import Form, Upload
from ekiben.runtime.http import Request, check_model_name
from ekiben.runtime.vision.darkroom import Source, darkroom
from ekiben.runtime.vision.drawing_fields import (
    EDITS,
    GENERATIONS,
    PIPELINE_OPTIONS,
    VARIATIONS,
    checked_fields,
)
from ekiben.runtime.vision.formats import BEST_QUALITY, PictureFormat
from ekiben.runtime.vision.images import pixel_count, upright_png
from ekiben.runtime.vision.picture_request import Field, decode_data_url

MAX_PICTURES: Final = 16
KEEPER_HEADER: Final = "x-ekiben-pictures"
"""On requests of a platform that can keep pictures and hand out URLs; on answers, that it is asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that is in order, its pictures not decoded yet."""

    draw: DrawRequest
    sources: Sequence[Source] = ()
    mask: Source | None = None
    format: PictureFormat
    stream: bool
    as_urls: bool

    @asynccontextmanager
    async def developed(self) -> AsyncGenerator[DrawRequest, None]:
        """With its pictures decoded, which have room in memory until the end. Raises InvalidRequest."""
        sources = [*self.sources, *(() if self.mask is None else (self.mask,))]
        if not sources:
            yield self.draw
            return
        pixels = [await asyncio.to_thread(pixel_count, source) for source in sources]
        async with darkroom().room(sum(pixels)):
            images = [await asyncio.to_thread(upright_png, source) for source in sources]
            mask = images.pop() if self.mask is not None else None
            yield replace(self.draw, images=tuple(images), mask=mask)


def generation(request: Request) -> Asked:
    """Raises InvalidRequest and UnsupportedParameter."""
    body = request.json()
    name = body.pop("model", None)
    return _asked(request, name, checked_fields(body, GENERATIONS))


def edit(request: Request) -> Asked:
    """Raises as `generation`."""
    if request.content_type.startswith("multipart/"):
        name, values, files = _from_form(request.form(), EDITS, pictures=("image", "mask"))
    else:
        name, values, files = _from_json(request)
    if not files["image"]:
        raise InvalidRequest("'image' is required", param="image")
    if len(files["image"]) > MAX_PICTURES:
        raise InvalidRequest(f"'image' may be given {MAX_PICTURES} times at most", param="image")
    asked = _asked(request, name, checked_fields(values, EDITS))
    return replace(asked, sources=files["image"], mask=next(iter(files["mask"]), None))


def variation(request: Request) -> Asked:
    """Raises as `generation`."""
    name, values, files = _from_form(request.form(), VARIATIONS, pictures=("image",))
    if len(files["image"]) != 1:
        raise InvalidRequest("'image' is required, as one file", param="image")
    asked = _asked(request, name, checked_fields(values, VARIATIONS) | {"prompt": ""})
    return replace(asked, sources=files["image"])


def _asked(request: Request, name: object, fields: Mapping[str, Any]) -> Asked:
    model = check_model_name(request, name, adapters=True)
    if fields["prompt"] is None:
        raise InvalidRequest("'prompt' is required", param="prompt")
    as_urls = fields["response_format"] == "url"
    if as_urls and not request.header(KEEPER_HEADER):
        raise UnsupportedParameter(
            "'response_format' url needs the platform, which keeps pictures: ask for b64_json",
            param="response_format",
        )
    compression = fields.get("output_compression")
    return Asked(
        draw=_draw(fields, adapter=request.model.adapter_of(model)),
        format=PictureFormat(
            fields.get("output_format") or "png", BEST_QUALITY if compression is None else compression
        ),
        stream=bool(fields.get("stream")),
        as_urls=as_urls,
    )


def _draw(fields: Mapping[str, Any], *, adapter: str | None) -> DrawRequest:
    width, height = fields["size"] or (None, None)
    steps = fields["num_inference_steps"]
    return DrawRequest(
        prompt=fields["prompt"],
        negative_prompt=fields["negative_prompt"],
        n=fields["n"],
        width=width,
        height=height,
        steps=steps if steps is not None else fields["steps"],
        guidance=fields["guidance_scale"],
        scheduler=fields["scheduler"],
        seed=fields["seed"],
        previews=fields.get("partial_images") or 0,
        strength=fields["strength"],
        adapter=adapter,
        options={name: fields[name] for name in PIPELINE_OPTIONS if fields[name] is not None},
    )


def _from_form(
    form: Form, known: Mapping[str, Field], *, pictures: Sequence[str]
) -> tuple[str | None, dict[str, Any], dict[str, list[Source]]]:
    for name in [*form.files, *form.listed]:
        if name not in pictures:
            raise InvalidRequest(f"{name[:64]!r} is no file of this request", param=name[:64])
    files: dict[str, list[Source]] = {}
    for name in pictures:
        if name in form.fields:
            raise InvalidRequest(f"{name!r} must be sent as a file", param=name)
        files[name] = [upload.path for upload in _uploads(form, name)]
    values: dict[str, Any] = {}
    for name in form.fields:
        text = form.one(name)
        if name != "model":
            values[name] = known[name].told([text]) if name in known and text else text or None
    return form.one("model"), values, files


def _uploads(form: Form, name: str) -> list[Upload]:
    single = form.files.get(name)
    return [*([single] if single is not None else []), *form.listed.get(name, [])]


def _from_json(request: Request) -> tuple[Any, dict[str, Any], dict[str, list[Source]]]:
    """Pictures are data URLs, as they are or in objects as chats have them."""
    body = request.json()
    name = body.pop("model", None)
    if "image" in body and "images" in body:
        raise InvalidRequest("'image' and 'images' are one thing: send one", param="images")
    given = body.pop("images", None) or body.pop("image", None) or []
    body.pop("image", None)
    images = given if isinstance(given, list) else [given]
    mask = body.pop("mask", None)
    files: dict[str, list[Source]] = {
        "image": [_data_url(image, "image") for image in images],
        "mask": [] if mask is None else [_data_url(mask, "mask")],
    }
    return name, body, files


def _data_url(value: object, param: str) -> bytes:
    if isinstance(value, dict):
        if "file_id" in value:
            raise UnsupportedParameter("'file_id' is not supported: send a data URL", param=param)
        value = value.get("image_url") if set(value) == {"image_url"} else None
    try:
        return decode_data_url(value)
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace("'image'", f"{param!r}"), param=param) from None
