"""`POST /v1/images/classify` and `/v1/images/detect`: what a picture shows, in labels or in boxes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import Ability
from ekiben.contract.pictures import Classify, ClassifyRequest, Detect, Detection, DetectRequest, Label
from ekiben.runtime.http import Answer, Request, Route
from ekiben.runtime.vision.darkroom import darkroom
from ekiben.runtime.vision.picture_request import Field, Number, Texts, picture_request

DEFAULT_LABELS: Final = 5

_CLASSIFY_FIELDS: Final[Mapping[str, Field]] = {
    "labels": Texts(max_items=256, max_characters=512),
    "top_k": Number(minimum=1, maximum=100_000, default=DEFAULT_LABELS, whole=True),
}
_DETECT_FIELDS: Final[Mapping[str, Field]] = {"threshold": Number(minimum=0, maximum=1, default=0.5)}


async def classify(request: Request) -> Answer:
    """The likeliest labels of a picture; a client that leaves ends the work."""
    asked = picture_request(request, _CLASSIFY_FIELDS)
    engine: Classify = request.able(Ability.CLASSIFY)
    async with darkroom().developed(asked.image) as image:
        labels = await engine.classify(ClassifyRequest(image=image, labels=asked.fields["labels"]))
    body = {"labels": rendered_labels(labels[: asked.fields["top_k"]])}
    return _answer("classification", model=asked.model, body=body)


async def detect(request: Request) -> Answer:
    """The objects in a picture; a client that leaves ends the work."""
    asked = picture_request(request, _DETECT_FIELDS)
    engine: Detect = request.able(Ability.DETECT)
    async with darkroom().developed(asked.image) as image:
        found = await engine.detect(DetectRequest(image=image, threshold=asked.fields["threshold"]))
    return _answer("detection", model=asked.model, body=rendered_detection(found))


def rendered_labels(labels: Sequence[Label]) -> list[dict[str, Any]]:
    return [{"label": label.label, "score": round(label.score, 6)} for label in labels]


def rendered_detection(found: Detection) -> dict[str, Any]:
    objects = [
        {"label": one.label, "score": round(one.score, 6), "box": [round(side, 2) for side in one.box]}
        for one in found.objects
    ]
    return {"width": found.width, "height": found.height, "objects": objects}


def _answer(kind: str, *, model: str, body: dict[str, Any]) -> Answer:
    head: dict[str, Any] = {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(SYSTEM_CLOCK.now().timestamp()),
        "model": model,
    }
    return Answer(msgspec.json.encode(head | body))


ROUTES: Final = (
    Route("POST", "/v1/images/classify", frozenset({Ability.CLASSIFY}), classify),
    Route("POST", "/v1/images/detect", frozenset({Ability.DETECT}), detect),
)
