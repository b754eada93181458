"""Requests with one picture in them: a form with the file `image`, or JSON with a data URL.

Other URLs are refused, so that nobody can make this machine fetch anything. Whatever field was not announced
is refused by name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ekiben.errors import InvalidRequest
from ekiben.runtime.http import Request, check_model_name
from ekiben.runtime.vision.darkroom import Source
from ekiben.runtime.vision.images import FORMATS

PICTURE_TYPES: Final = frozenset({f"image/{name.lower()}" for name in FORMATS} | {"image/jpg"})


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """What was asked, however it was sent."""

    model: str
    image: Source
    fields: Mapping[str, Any]
    """The other fields, checked; those that were not sent have their defaults."""


class Field(Protocol):
    """A field beside the picture."""

    @property
    def default(self) -> Any: ...

    def told(self, texts: list[str]) -> object:
        """As it would stand in JSON, from what a form says."""

    def checked(self, value: object) -> Any:
        """The value. Raises ValueError with what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number within bounds."""

    minimum: float
    maximum: float
    default: float | None
    whole: bool = False

    def told(self, texts: list[str]) -> object:
        try:
            return int(texts[0]) if self.whole else float(texts[0])
        except ValueError:
            return texts[0]

    def checked(self, value: object) -> float:
        kinds = int if self.whole else int | float
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not self.minimum <= value <= self.maximum:  # type: ignore[operator]  # false of NaN
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(f"must be {kind} from {self.minimum} to {self.maximum}")
        return value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A list of texts, none of them empty; in a form, the field repeated."""

    max_items: int
    max_characters: int
    default: tuple[str, ...] = ()

    def told(self, texts: list[str]) -> object:
        return texts

    def checked(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= self.max_items:
            raise ValueError(f"must be a list of 1 to {self.max_items} texts")
        if not all(isinstance(text, str) and 0 < len(text.strip()) <= self.max_characters for text in value):
            raise ValueError(f"must have texts of 1 to {self.max_characters} characters")
        return tuple(value)


def picture_request(
    request: Request, fields: Mapping[str, Field], *, types: frozenset[str] = PICTURE_TYPES
) -> PictureRequest:
    """Read it. `types`: the media types that a data URL may have. Raises InvalidRequest."""
    if request.content_type.startswith("multipart/"):
        return _from_form(request, fields)
    return _from_json(request, fields, types)


def decode_data_url(url: object, *, types: frozenset[str] = PICTURE_TYPES) -> bytes:
    """The bytes of `data:image/png;base64,…`. Raises InvalidRequest (param `image`)."""
    if not isinstance(url, str):
        raise _bad_image("must be a data URL, as in data:image/png;base64,…")
    if url[:5].lower() != "data:":
        raise _bad_image("must be a data URL, as in data:image/png;base64,…; other URLs are never fetched")
    head, comma, data = url[5:].partition(",")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or "base64" not in parameters:
        raise _bad_image("must be a data URL in base64, as in data:image/png;base64,…")
    if media_type not in types:
        raise _bad_image(f"has the media type {media_type[:50]!r}: send one of {', '.join(sorted(types))}")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_image(f"is not valid base64: {error}") from None


def _from_json(request: Request, fields: Mapping[str, Field], types: frozenset[str]) -> PictureRequest:
    body = request.json()
    _refuse_unknown(list(body), fields)
    model = check_model_name(request, body.get("model"))
    if "image" not in body:
        raise _bad_image("is required")
    others = {name: _checked(name, field, body.get(name)) for name, field in fields.items()}
    return PictureRequest(model, decode_data_url(body["image"], types=types), others)


def _from_form(request: Request, fields: Mapping[str, Field]) -> PictureRequest:
    form = request.form()
    lists = {name for name, field in fields.items() if isinstance(field, Texts)}
    sent = [name.removesuffix("[]") if name.removesuffix("[]") in lists else name for name in form.fields]
    _refuse_unknown([*sent, *form.files], fields)
    model = check_model_name(request, form.one("model"))
    if (upload := form.files.get("image")) is None:
        raise _bad_image("is required, as a file" if "image" not in form.fields else "must be sent as a file")
    others = {}
    for name, field in fields.items():
        if name in form.files:
            raise InvalidRequest(f"{name!r} must be sent as a field, not as a file", param=name)
        texts = form.many(name) if name in lists else [text for text in (form.one(name),) if text is not None]
        others[name] = _checked(name, field, field.told(texts) if texts else None)
    return PictureRequest(model, upload.path, others)


def _checked(name: str, field: Field, value: object) -> Any:
    if value is None:
        return field.default
    try:
        return field.checked(value)
    except ValueError as error:
        raise InvalidRequest(f"{name!r} {error}", param=name) from None


def _refuse_unknown(names: list[str], fields: Mapping[str, Field]) -> None:
    for name in names:
        if name not in ("model", "image") and name not in fields:
            raise InvalidRequest(f"{name[:64]!r} is not a field of this request", param=name)


def _bad_image(reason: str) -> InvalidRequest:
    return InvalidRequest(f"'image' {reason}", param="image")
