"""What a request asks of the pipeline: checked against what this one can be told, and what it may cost.

Settings are whatever all pictures of one call have in common, so they say which are computed together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.contract import DrawRequest, InvalidRequest, UnsupportedParameter
from ekiben_diffusers.ensemble import Ensemble, Kind

NUMBERS: Final = (
    "aesthetic_score",
    "denoising_end",
    "denoising_start",
    "eta",
    "guidance_rescale",
    "negative_aesthetic_score",
    "true_cfg_scale",
)
WHOLE_NUMBERS: Final = ("clip_skip", "max_sequence_length", "padding_mask_crop")
TEXTS: Final = ("negative_prompt_2", "negative_prompt_3", "prompt_2", "prompt_3")
"""What requests may say besides, where the pipeline knows it."""
USUAL_STEPS: Final = 50
USUAL_STRENGTH: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of what one request, and one batch, may cost."""

    max_steps: int
    max_pixels: int
    max_batch: int
    batch_pixels: int
    """Of all pictures that are computed together, unless it is a single one."""
    steps: int | None
    guidance: float | None
    scheduler: str | None

    @classmethod
    def of(cls, ensemble: Ensemble, options: Mapping[str, Any]) -> Limits:
        width, height = ensemble.native_size
        if scheduler := options.get("scheduler"):
            ensemble.check_scheduler(scheduler)
        return cls(
            max_steps=int(options["max_steps"]),
            max_pixels=int(options.get("max_pixels") or 2 * width * height),
            max_batch=int(options["max_batch"]),
            batch_pixels=int(options["max_batch"]) * width * height,
            steps=options.get("steps"),
            guidance=options.get("guidance"),
            scheduler=scheduler,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """None: as the pipeline has it."""

    kind: Kind
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    strength: float | None
    scheduler: str | None
    adapter: str | None
    negative: bool
    """Whether there is a negative prompt: an empty one is not the same as none."""
    pictures: int
    """How many a picture begins from."""
    extra: tuple[tuple[str, Any], ...]


def settings_of(
    request: DrawRequest, ensemble: Ensemble, limits: Limits, *, size: tuple[int, int] | None
) -> Settings:
    """`size`: of what comes out, where it is known. Raises InvalidRequest and UnsupportedParameter."""
    kind = _kind(request, ensemble)
    known = ensemble.arguments(kind)
    if size is not None:
        _check_size(*size, ensemble, limits)
    steps = request.steps if request.steps is not None else limits.steps
    guidance = request.guidance if request.guidance is not None else limits.guidance
    scheduler = request.scheduler or limits.scheduler
    if request.scheduler is not None:
        ensemble.check_scheduler(request.scheduler)
    if request.negative_prompt is not None:
        _require(known, "negative_prompt")
    if request.adapter is not None and request.adapter not in ensemble.adapters:
        raise InvalidRequest(f"there is no adapter {request.adapter[:64]!r}", param="model")
    settings = Settings(
        kind=kind,
        width=size[0] if size else None,
        height=size[1] if size else None,
        steps=steps,
        guidance=guidance,
        strength=request.strength,
        scheduler=scheduler,
        adapter=request.adapter,
        negative=request.negative_prompt is not None,
        pictures=len(request.images),
        extra=tuple(sorted(_extra(request.options, known).items())),
    )
    _check_steps(settings, known, limits)
    _check_guidance(request, known)
    return settings


def guidance_name(known: Mapping[str, Any]) -> str | None:
    """Under which name the pipeline takes it. Some keep the usual one for models that were distilled."""
    if "guidance_scale" in known and (known["guidance_scale"] is not None or "true_cfg_scale" not in known):
        return "guidance_scale"
    return "true_cfg_scale" if "true_cfg_scale" in known else None


def _kind(request: DrawRequest, ensemble: Ensemble) -> Kind:
    kind = Kind.MASK if request.mask is not None else Kind.PICTURE if request.images else Kind.TEXT
    if kind is Kind.PICTURE and kind not in ensemble.kinds and Kind.MASK in ensemble.kinds:
        raise InvalidRequest("this model paints under masks only: send one", param="mask")
    if kind not in ensemble.kinds:
        param = {Kind.MASK: "mask", Kind.PICTURE: "image", Kind.TEXT: "prompt"}[kind]
        what = {Kind.MASK: "paint under a mask", Kind.PICTURE: "begin from a picture"}.get(
            kind, "draw from a text alone"
        )
        raise UnsupportedParameter(f"this model cannot {what}", param=param)
    return kind


def _check_size(width: int, height: int, ensemble: Ensemble, limits: Limits) -> None:
    step = ensemble.step_pixels
    if width < step or height < step or width % step or height % step:
        raise InvalidRequest(
            f"'size' {width}x{height} cannot be made: width and height must be multiples of {step}",
            param="size",
        )
    if width * height > limits.max_pixels:
        own = "x".join(map(str, ensemble.native_size))
        raise InvalidRequest(
            f"'size' {width}x{height} has {width * height:,} pixels, the limit is {limits.max_pixels:,}: "
            f"the model's own size is {own}",
            param="size",
        )


def _check_steps(settings: Settings, known: Mapping[str, Any], limits: Limits) -> None:
    steps, strength = settings.steps, settings.strength
    if steps is not None:
        _require(known, "num_inference_steps")
        if not 1 <= steps <= limits.max_steps:
            raise InvalidRequest(f"'steps' must be 1 to {limits.max_steps}, not {steps}", param="steps")
    if strength is None:
        return
    _require(known, "strength")
    if not 0 <= strength <= 1:
        raise InvalidRequest(f"'strength' must be 0 to 1, not {strength}", param="strength")
    asked = steps if steps is not None else known.get("num_inference_steps") or USUAL_STEPS
    if int(asked * strength) < 1:
        raise InvalidRequest(
            f"a strength of {strength} leaves none of {asked} steps to be done: ask for more of either",
            param="strength",
        )


def _check_guidance(request: DrawRequest, known: Mapping[str, Any]) -> None:
    if request.guidance is None:
        return
    if guidance_name(known) is None:
        raise UnsupportedParameter("this model has no guidance to set", param="guidance_scale")
    if not 0 <= request.guidance <= 100:
        raise InvalidRequest("'guidance_scale' must be 0 to 100", param="guidance_scale")


def _extra(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in (*NUMBERS, *WHOLE_NUMBERS, *TEXTS):
            raise UnsupportedParameter(f"{name[:64]!r} is nothing that can be set here", param=name[:64])
        _require(known, name)
        wanted = str if name in TEXTS else int if name in WHOLE_NUMBERS else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            what = "a text" if name in TEXTS else "a whole number" if name in WHOLE_NUMBERS else "a number"
            raise InvalidRequest(f"{name!r} must be {what}", param=name)
    return dict(options)


def _require(known: Mapping[str, Any], name: str) -> None:
    if name not in known:
        raise UnsupportedParameter(f"this model has no {name!r} to set: leave it out", param=name)
