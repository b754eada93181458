"""The pipelines that one folder gives: of a text, of a picture, of a picture with a mask.

They share all their parts, so no two of them may compute at a time. Which there are is the library's to say.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

from ekiben.contract import InvalidRequest, LoadFailed

USUAL_SIDE: Final = 128
"""Of latents, where a model does not say."""
INPAINTING_CHANNELS: Final = 9
"""Of a UNet that was trained to be shown a masked picture besides, and can do nothing else."""


class Kind(StrEnum):
    """What a picture begins from."""

    TEXT = "text"
    PICTURE = "picture"
    MASK = "mask"


_AUTO: Final[dict[Kind, Any]] = {
    Kind.TEXT: AutoPipelineForText2Image,
    Kind.PICTURE: AutoPipelineForImage2Image,
    Kind.MASK: AutoPipelineForInpainting,
}


class Ensemble:
    """`first` is the pipeline as it was loaded. `adapters`: what each is called inside it."""

    def __init__(self, first: Any, *, adapters: Mapping[str, str]) -> None:
        self.first = first
        self.adapters = adapters
        self._pipelines = _pipelines(first)
        self._own_scheduler = getattr(first, "scheduler", None)
        self._schedulers: dict[str, Any] = {}
        if not self._pipelines:
            raise LoadFailed(f"{type(first).__name__} makes no pictures from texts or pictures")

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(self._pipelines)

    def pipeline(self, kind: Kind) -> Any:
        return self._pipelines[kind]

    def arguments(self, kind: Kind) -> Mapping[str, Any]:
        """What the pipeline can be called with, and the defaults."""
        parameters = inspect.signature(type(self._pipelines[kind]).__call__).parameters
        return {name: parameter.default for name, parameter in parameters.items()}

    def ready(self, kind: Kind, *, scheduler: str | None, adapter: str | None) -> Any:
        """The pipeline, with these in place. Only on the thread that computes."""
        pipeline = self._pipelines[kind]
        if self._own_scheduler is not None:
            pipeline.scheduler = self._own_scheduler if scheduler is None else self._schedulers[scheduler]
        if self.adapters:
            self._put_on(adapter)
        return pipeline

    def check_scheduler(self, name: str) -> None:
        """Make it, once. Raises InvalidRequest."""
        if name in self._schedulers:
            return
        own: Any = self._own_scheduler
        known = {kind.__name__: kind for kind in getattr(own, "compatibles", ())}
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidRequest(
                f"there is no scheduler {name[:64]!r} for this model: use one of {listed}", param="scheduler"
            )
        try:
            self._schedulers[name] = known[name].from_config(own.config)
        except Exception as error:
            raise InvalidRequest(
                f"the scheduler {name!r} cannot be used with this model: {error}", param="scheduler"
            ) from error

    def _put_on(self, adapter: str | None) -> None:
        if adapter is None:
            self.first.disable_lora()
        else:
            self.first.enable_lora()
            self.first.set_adapters(self.adapters[adapter])

    # Sizes

    @cached_property
    def step_pixels(self) -> int:
        """Width and height are multiples of it."""
        scale = int(getattr(self.first, "vae_scale_factor", 1))
        patch = int(getattr(self.first, "patch_size", None) or 1)
        processor = getattr(getattr(self.first, "image_processor", None), "config", None)
        return max(scale * patch, int(getattr(processor, "vae_scale_factor", 1)))

    @cached_property
    def native_size(self) -> tuple[int, int]:
        """Width and height that the model was trained for."""
        sample = getattr(self.first, "default_sample_size", None) or getattr(
            getattr(self.denoiser, "config", None), "sample_size", None
        )
        sides = list(sample) if isinstance(sample, (list, tuple)) else [sample or USUAL_SIDE] * 2
        scale = int(getattr(self.first, "vae_scale_factor", 1))
        return int(sides[-1]) * scale, int(sides[-2]) * scale

    @property
    def denoiser(self) -> Any:
        """The part that computes the steps."""
        return getattr(self.first, "unet", None) or getattr(self.first, "transformer", None) or self.first


def _pipelines(first: Any) -> dict[Kind, Any]:
    own = _own_kinds(first)
    if Kind.MASK in own and _only_inpaints(first):
        return {Kind.MASK: first}
    found = {kind: first for kind in own}
    for kind, auto in _AUTO.items():
        if kind not in found and (other := _linked(auto, first)) is not None:
            found[kind] = other
    return found


def _own_kinds(first: Any) -> frozenset[Kind]:
    """Of the pipeline itself, from what it can be called with."""
    parameters = inspect.signature(type(first).__call__).parameters
    if "prompt" not in parameters:
        return frozenset()
    if "mask_image" in parameters:
        return frozenset({Kind.MASK})
    if "image" not in parameters:
        return frozenset({Kind.TEXT})
    edits = frozenset({Kind.PICTURE})
    return edits | {Kind.TEXT} if type(first) in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values() else edits


def _linked(auto: Any, first: Any) -> Any:
    """A pipeline of the same parts, if the library knows one."""
    try:
        return auto.from_pipe(first)
    except (ValueError, AttributeError, TypeError):
        return None


def _only_inpaints(first: Any) -> bool:
    unet = getattr(first, "unet", None)
    return unet is not None and unet.config.in_channels == INPAINTING_CHANNELS
