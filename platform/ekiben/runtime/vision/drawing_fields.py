"""The fields of requests for pictures: OpenAI's, and those that other servers have besides.

Each is honoured or refused by its name. Only what a request itself can be blamed for is checked here; what
the model can do, its engine knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.vision.formats import BEST_QUALITY, FORMATS, LOSSY
from ekiben.runtime.vision.picture_request import Field, Number

MAX_PROMPT_CHARACTERS: Final = 32_000
MAX_SIDE: Final = 16_384
MAX_SEED: Final = 2**63 - 1
AUTO: Final = "auto"

_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text, which may be empty unless it is named."""

    max_characters: int
    named: bool = False
    default: str | None = None

    def told(self, texts: list[str]) -> object:
        return texts[0]

    def checked(self, value: object) -> str:
        if (
            not isinstance(value, str)
            or len(value) > self.max_characters
            or (self.named and not value.strip())
        ):
            least = 1 if self.named else 0
            raise ValueError(f"must be a text of {least} to {self.max_characters} characters")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]
    default: str | None = None
    refused: Mapping[str, str] | None = None
    """Words that the API knows and that cannot be honoured, with what to do instead."""

    def told(self, texts: list[str]) -> object:
        return texts[0]

    def checked(self, value: object) -> str:
        if isinstance(value, str) and (why := (self.refused or {}).get(value)) is not None:
            raise Unsupported(f"{value!r} is not supported: {why}")
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"must be one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    default: bool = False

    def told(self, texts: list[str]) -> object:
        return {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}.get(
            texts[0], texts[0]
        )

    def checked(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`auto`, or width and height."""

    default: tuple[int, int] | None = None

    def told(self, texts: list[str]) -> object:
        return texts[0]

    def checked(self, value: object) -> tuple[int, int] | None:
        if value == AUTO:
            return None
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < min(size) <= max(size) <= MAX_SIDE:
            raise ValueError(f"must be auto, or like 512x768 with sides of 1 to {MAX_SIDE}")
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What the API knows, and nothing here can honour."""

    why: str
    default: None = None

    def told(self, texts: list[str]) -> object:
        return texts[0]

    def checked(self, value: object) -> None:
        raise Unsupported(f"is not supported: {self.why}")


class Unsupported(ValueError):
    """Known to the API, and not to be had."""


_EFFORT: Final = "ask for num_inference_steps instead"
_SVG: Final = "pictures here are made of pixels: use png, jpeg or webp"

_FORMAT: Final[Mapping[str, Field]] = {
    "n": Number(minimum=1, maximum=10, default=1, whole=True),
    "size": Size(),
    "response_format": Choice(words=("b64_json", "url"), default="b64_json"),
    "user": Text(max_characters=512),
}
_OWN: Final[Mapping[str, Field]] = {
    "seed": Number(minimum=0, maximum=MAX_SEED, default=None, whole=True),
    "num_inference_steps": Number(minimum=1, maximum=10_000, default=None, whole=True),
    "steps": Number(minimum=1, maximum=10_000, default=None, whole=True),
    "guidance_scale": Number(minimum=0, maximum=1000, default=None),
    "strength": Number(minimum=0, maximum=1, default=None),
    "scheduler": Text(max_characters=100, named=True),
    "negative_prompt": Text(max_characters=MAX_PROMPT_CHARACTERS),
}
"""Which other servers of such models take as well."""
PIPELINE_OPTIONS: Final[Mapping[str, Field]] = {
    "aesthetic_score": Number(minimum=-100, maximum=100, default=None),
    "clip_skip": Number(minimum=0, maximum=100, default=None, whole=True),
    "eta": Number(minimum=0, maximum=1, default=None),
    "guidance_rescale": Number(minimum=0, maximum=1, default=None),
    "max_sequence_length": Number(minimum=1, maximum=4096, default=None, whole=True),
    "negative_prompt_2": Text(max_characters=MAX_PROMPT_CHARACTERS),
    "prompt_2": Text(max_characters=MAX_PROMPT_CHARACTERS),
    "true_cfg_scale": Number(minimum=0, maximum=1000, default=None),
}
"""Handed on as `DrawRequest.options`."""
VARIATIONS: Final[Mapping[str, Field]] = {**_FORMAT, **_OWN, **PIPELINE_OPTIONS}
GENERATIONS: Final[Mapping[str, Field]] = {
    **VARIATIONS,
    "prompt": Text(max_characters=MAX_PROMPT_CHARACTERS, named=True),
    "background": Choice(
        words=("auto", "opaque"),
        default=AUTO,
        refused={"transparent": "this model paints the whole picture"},
    ),
    "moderation": Choice(words=("auto", "low"), default=AUTO),
    "output_compression": Number(minimum=0, maximum=100, default=None, whole=True),
    "output_format": Choice(words=FORMATS, default=FORMATS[0], refused={"svg": _SVG, "gif": _SVG}),
    "partial_images": Number(minimum=0, maximum=3, default=0, whole=True),
    "quality": Choice(
        words=("auto", "medium", "standard"),
        default=AUTO,
        refused=dict.fromkeys(("low", "high", "hd", "xhigh", "max"), _EFFORT),
    ),
    "safety_identifier": Text(max_characters=512),
    "stream": Flag(),
    "style": Refused(why="describe the style in the prompt"),
    "complexity": Refused(why=_EFFORT),
    "frame_count": Refused(why="there are no films here"),
    "frame_duration_ms": Refused(why="there are no films here"),
    "svg": Refused(why=_SVG),
}
EDITS: Final[Mapping[str, Field]] = {
    **{name: field for name, field in GENERATIONS.items() if name != "style"},
    "input_fidelity": Refused(why="set strength instead, where 0 keeps all of the picture"),
    "markup": Refused(why="send a mask, and say in the prompt what is to be painted"),
}


def checked_fields(values: Mapping[str, Any], known: Mapping[str, Field]) -> dict[str, Any]:
    """All known fields, with their defaults. Null counts as not sent. Raises InvalidRequest."""
    for name in values:
        if name not in known:
            raise InvalidRequest(f"{name[:64]!r} is not a field of this request", param=name[:64])
    fields = {name: _checked(name, field, values.get(name)) for name, field in known.items()}
    _check_together(fields)
    return fields


def _checked(name: str, field: Field, value: object) -> Any:
    if value is None:
        return field.default
    try:
        return field.checked(value)
    except Unsupported as error:
        raise UnsupportedParameter(f"{name!r} {error}", param=name) from None
    except ValueError as error:
        raise InvalidRequest(f"{name!r} {error}", param=name) from None


def _check_together(fields: Mapping[str, Any]) -> None:
    steps, more_steps = fields["num_inference_steps"], fields["steps"]
    if steps is not None and more_steps is not None and steps != more_steps:
        raise InvalidRequest("'steps' and 'num_inference_steps' are one thing: send one", param="steps")
    compression = fields.get("output_compression")
    if compression not in (None, BEST_QUALITY) and fields["output_format"] not in LOSSY:
        raise InvalidRequest(
            f"'output_compression' is for {' and '.join(LOSSY)}: a png loses nothing",
            param="output_compression",
        )
    if fields.get("partial_images") and not fields["stream"]:
        raise InvalidRequest("'partial_images' are shown in streams: send stream too", param="partial_images")
    if fields.get("stream") and fields["n"] > 1:
        # No event says which picture it is of.
        raise UnsupportedParameter("'n' is 1 in streams: ask once for each picture", param="n")
    if fields.get("stream") and fields["response_format"] == "url":
        raise UnsupportedParameter("'response_format' url is not for streams", param="response_format")
