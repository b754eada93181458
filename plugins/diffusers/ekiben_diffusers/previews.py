"""The state on the way as a picture: what the pipeline does at its end, done in the middle.

Not for all pipelines: some pack their latents in ways of their own, and then there are no previews.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ekiben.contract import Pixels
from ekiben_diffusers.pictures import pixels_of


class Decoder:
    """Of one pipeline, for pictures of one size."""

    def __init__(self, pipeline: Any, size: tuple[int, int]) -> None:
        self._pipeline = pipeline
        self._vae: Any = getattr(pipeline, "vae", None)
        self._size = size
        self.able = (
            hasattr(self._vae, "decode")
            and hasattr(pipeline, "image_processor")
            and not hasattr(pipeline, "_unpack_latents_with_ids")
        )

    @torch.no_grad()
    def decode(self, latents: Any, rows: Sequence[int]) -> list[Pixels]:
        chosen = latents[list(rows)]
        if hasattr(self._pipeline, "_unpack_latents"):
            width, height = self._size
            scale = self._pipeline.vae_scale_factor
            chosen = self._pipeline._unpack_latents(chosen, height, width, scale)
        narrow = self._vae.dtype == torch.float16 and getattr(self._vae.config, "force_upcast", False)
        if narrow:  # as the pipelines do: such a VAE overflows in 16 bits
            self._vae.to(dtype=torch.float32)
        try:
            decoded = self._vae.decode(self._scaled(chosen.to(self._vae.dtype)), return_dict=False)[0]
        finally:
            if narrow:
                self._vae.to(dtype=torch.float16)
        if decoded.ndim == 5:  # of a VAE for films: the first frame
            decoded = decoded[:, :, 0]
        images = self._pipeline.image_processor.postprocess(decoded.detach(), output_type="pil")
        return [pixels_of(image) for image in images]

    def _scaled(self, latents: Any) -> Any:
        config = self._vae.config
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        factor = getattr(config, "scaling_factor", None) or 1.0
        if mean is None or deviation is None:
            return latents / factor + (getattr(config, "shift_factor", None) or 0.0)
        shape = (1, -1, *(1,) * (latents.ndim - 2))
        means = torch.tensor(mean, dtype=latents.dtype, device=latents.device).view(shape)
        deviations = torch.tensor(deviation, dtype=latents.dtype, device=latents.device).view(shape)
        return latents * deviations / factor + means
