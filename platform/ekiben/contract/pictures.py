"""The abilities of the vision family besides reading text: say what is in a picture, and make pictures.

As in `ekiben.contract.abilities`: plain values, of which the runtime renders every format. Pictures reach an
engine decoded, bounded and upright, and leave it as pixels.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyRequest:
    image: bytes
    """As in `OcrRequest`."""
    labels: Sequence[str] = ()
    """What to choose from, for models that take any words; `UnsupportedParameter` from others. Empty:
    the model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    label: str
    score: float
    """0 to 1."""


@runtime_checkable
class Classify(Protocol):
    async def classify(self, request: ClassifyRequest) -> Sequence[Label]:
        """All labels, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    image: bytes
    """As in `OcrRequest`."""
    threshold: float = 0.5
    """Objects of a lower score are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedObject:
    label: str
    score: float
    """0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    width: int
    height: int
    objects: Sequence[DetectedObject] = ()
    """The surest first."""


@runtime_checkable
class Detect(Protocol):
    async def detect(self, request: DetectRequest) -> Detection:
        """All objects in the picture; none is a valid answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRequest:
    """Pictures to be made from a text, or from other pictures and a text. None: as the model has it."""

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    """By its name in the library."""
    seed: int | None = None
    """Of the first picture; each further one takes the next number. None: drawn by lot."""
    previews: int = 0
    """How many pictures of the state on the way to show, of each."""
    images: Sequence[bytes] = ()
    """To begin from, as in `OcrRequest`."""
    mask: bytes | None = None
    """Of the first picture's size; what is to be painted anew is transparent, or white where there is no
    transparency."""
    strength: float | None = None
    """0 to 1: how far the result may be from what it begins from."""
    adapter: str | None = None
    """One of `LoadRequest.adapters`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the model's pipeline. `UnsupportedParameter` for those that it has not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    width: int
    height: int
    data: bytes
    """Rows from the top, three bytes for each pixel: red, green, blue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """So far has it come."""

    index: int
    """Which of the `n` pictures."""
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The state on the way."""

    index: int
    number: int
    """From 0."""
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One that is done."""

    index: int
    pixels: Pixels
    seed: int
    prompt_tokens: int = 0
    """Of the text; 0 where they are not counted."""


Drawn: TypeAlias = Step | Preview | Picture


@runtime_checkable
class GenerateImage(Protocol):
    def generate_image(self, request: DrawRequest) -> AsyncGenerator[Drawn, None]:
        """News as they come, and at last `n` pictures. Closing it ends the work between two steps."""


@runtime_checkable
class EditImage(Protocol):
    def edit_image(self, request: DrawRequest) -> AsyncGenerator[Drawn, None]:
        """As `generate_image`, beginning from `request.images`, of which there is at least one."""
