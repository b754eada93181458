"""Requests for pictures as batches: one call of the pipeline for all that have the same settings.

Each picture has a generator of its own, so its noise depends on its seed alone. A picture that is computed
by itself is the library's own for that seed, byte for byte; beside others its last bits may differ, as they
do in the library.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Any, Final

import torch

from ekiben.contract import (
    DrawRequest,
    EngineError,
    GivenUp,
    InvalidRequest,
    Item,
    Picture,
    Run,
)
from ekiben_diffusers.ensemble import Ensemble, Kind
from ekiben_diffusers.pictures import check_mask, fitting, mask_of, opened, pixels_of, size_of
from ekiben_diffusers.previews import Decoder
from ekiben_diffusers.settings import Limits, Settings, guidance_name, settings_of
from ekiben_diffusers.values import Value
from ekiben_diffusers.watch import CALLBACK, Watch

SEEDS: Final = 2**32
"""Those drawn by lot: small enough to be typed."""
ALL_SEEDS: Final = 2**63
SEVERAL: Final = frozenset(
    {"Flux2KleinPipeline", "Flux2Pipeline", "QwenImage21Pipeline", "QwenImageEditPlusPipeline"}
)
"""Pipelines that begin from several pictures at once."""


class Drawing:
    """A `Batching`, the same for both abilities: they share the pipeline, and so its one turn at a time."""

    def __init__(self, ensemble: Ensemble, limits: Limits) -> None:
        self.ensemble = ensemble
        self._limits = limits
        self._computing = threading.Lock()

    @property
    def max_items(self) -> int:
        return self._limits.max_batch

    @property
    def max_length(self) -> int | None:
        return self._limits.batch_pixels

    def items(self, request: DrawRequest) -> Sequence[Item[Value]]:
        size = self._size(request)
        settings = settings_of(request, self.ensemble, self._limits, size=size)
        self._check_pictures(request, settings)
        first = request.seed if request.seed is not None else secrets.randbelow(SEEDS)
        native = self.ensemble.native_size
        width, height = size or native
        tokens = self._tokens(request.prompt)
        return [
            Item(
                Value(
                    settings=settings,
                    index=index,
                    seed=(first + index) % ALL_SEEDS,
                    prompt=request.prompt,
                    negative_prompt=request.negative_prompt,
                    prompt_tokens=tokens,
                    previews=request.previews,
                    images=tuple(request.images),
                    mask=request.mask,
                ),
                length=width * height,
                group=settings if len(request.images) < 2 else (settings, request.images),
            )
            for index in range(request.n)
        ]

    def prepare(self, values: Sequence[Value]) -> tuple[Sequence[Value], dict[str, Any]]:
        """The values, and what the pipeline is called with, but for the generators: noise is drawn late."""
        settings = values[0].settings
        known = self.ensemble.arguments(settings.kind)
        arguments: dict[str, Any] = {"prompt": _one_or_all([value.prompt for value in values])}
        if settings.negative:
            arguments["negative_prompt"] = _one_or_all([value.negative_prompt for value in values])
        arguments |= _numbers(settings, known)
        for name, value in settings.extra:
            arguments[name] = [value] * len(values) if isinstance(value, str) and len(values) > 1 else value
        if settings.kind is not Kind.TEXT:
            arguments |= _pictures(values, settings)
        if settings.width is not None and "width" in known:
            arguments |= {"width": settings.width, "height": settings.height}
        return values, arguments

    def compute(self, prepared: tuple[Sequence[Value], dict[str, Any]], run: Run) -> list[Picture]:
        values, arguments = prepared
        settings = values[0].settings
        with self._computing:
            pipeline = self.ensemble.ready(
                settings.kind, scheduler=settings.scheduler, adapter=settings.adapter
            )
            size = (
                (settings.width or 0, settings.height or 0) if settings.width else self.ensemble.native_size
            )
            watch = Watch(run, values, Decoder(pipeline, size))
            arguments = arguments | {"generator": _one_or_all([_generator(value.seed) for value in values])}
            if CALLBACK in self.ensemble.arguments(settings.kind):
                arguments[CALLBACK] = watch.step_ended
            images = self._call(pipeline, arguments, watch)
        return [
            Picture(
                index=value.index,
                pixels=pixels_of(image),
                seed=value.seed,
                prompt_tokens=value.prompt_tokens,
            )
            for value, image in zip(values, images, strict=True)
        ]

    def answer(self, request: DrawRequest, results: Sequence[Picture]) -> Sequence[Picture]:
        return results

    def close(self) -> None:
        """Free the pipelines, after what computes has ended."""
        with self._computing:
            del self.ensemble
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _call(self, pipeline: Any, arguments: dict[str, Any], watch: Watch) -> Sequence[Any]:
        try:
            with watch.over(pipeline):
                images: Sequence[Any] = pipeline(**arguments).images
        except GivenUp:
            raise
        except ValueError as error:  # what the library says of arguments that do not go together
            raise InvalidRequest(f"the pipeline refuses this: {_line(error)}") from error
        except torch.OutOfMemoryError as error:
            raise EngineError(f"there is too little memory for this picture: {_line(error)}") from error
        finally:
            self.ensemble.first.maybe_free_model_hooks()
        return images

    def _size(self, request: DrawRequest) -> tuple[int, int] | None:
        """Of what comes out. None: as the pipeline has it."""
        native = self.ensemble.native_size
        if request.width is not None or request.height is not None:
            return request.width or native[0], request.height or native[1]
        if not request.images:
            return None
        return fitting(
            size_of(request.images[0]), step=self.ensemble.step_pixels, most=self._limits.max_pixels
        )

    def _check_pictures(self, request: DrawRequest, settings: Settings) -> None:
        if request.mask is not None:
            if not request.images:
                raise InvalidRequest("'mask' needs a picture that it lies on", param="mask")
            check_mask(request.mask, request.images[0])
        if len(request.images) > 1:
            name = type(self.ensemble.pipeline(settings.kind)).__name__
            if name not in SEVERAL:
                raise InvalidRequest("this model begins from one picture: send one", param="image")

    def _tokens(self, prompt: str) -> int:
        """As its first text encoder reads it."""
        tokenizer = getattr(self.ensemble.first, "tokenizer", None)
        if not callable(tokenizer):
            return 0
        return len(tokenizer(prompt, truncation=True)["input_ids"])


def _numbers(settings: Settings, known: Any) -> dict[str, Any]:
    named = {
        "num_inference_steps": settings.steps,
        "strength": settings.strength,
        guidance_name(known) or "": settings.guidance,
    }
    return {name: value for name, value in named.items() if name and value is not None}


def _pictures(values: Sequence[Value], settings: Settings) -> dict[str, Any]:
    assert settings.width is not None and settings.height is not None, "an edit has a size"
    size = settings.width, settings.height
    if settings.pictures > 1:  # all of a batch have the same ones
        return {"image": [opened(data, size_of(data)) for data in values[0].images]}
    found: dict[str, Any] = {"image": _one_or_all([opened(value.images[0], size) for value in values])}
    if settings.kind is Kind.MASK:
        masks = [mask_of(value.mask, size) for value in values if value.mask is not None]
        found["mask_image"] = _one_or_all(masks)
    return found


def _one_or_all(of_each: list[Any]) -> Any:
    """The library is called with a single one as anybody would call it."""
    return of_each[0] if len(of_each) == 1 else of_each


def _generator(seed: int) -> torch.Generator:
    """On the host, whatever the device: so a seed means the same noise everywhere."""
    return torch.Generator("cpu").manual_seed(seed)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
