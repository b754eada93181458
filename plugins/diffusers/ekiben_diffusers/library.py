"""What a load and a first request import of the libraries, at once and ahead of both.

Imported in the process from which replicas are forked: nothing here starts a thread or touches a GPU.
"""

from __future__ import annotations

import accelerate
import diffusers
import diffusers.guiders
import diffusers.pipelines.onnx_utils
import PIL.ImageFile
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.WebPImagePlugin
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

KNOWN_SCHEDULERS = DDIMScheduler().compatibles
"""The library looks all of these up, and so imports them, when it loads a pipeline with any of them."""

__all__ = [
    "KNOWN_SCHEDULERS",
    "PIL",
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "DDIMScheduler",
    "DiffusionPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "UNet2DConditionModel",
    "accelerate",
    "diffusers",
    "torch",
    "transformers",
]
