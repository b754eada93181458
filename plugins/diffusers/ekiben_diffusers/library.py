"""What a load and a first request import of the libraries, at once and ahead of both.

Imported in the process from which replicas are forked: nothing here starts a thread or touches a GPU.
"""

from __future__ import annotations

import accelerate
import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "DiffusionPipeline",
    "Image",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "UNet2DConditionModel",
    "accelerate",
    "diffusers",
    "torch",
    "transformers",
]
