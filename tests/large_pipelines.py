"""Pipelines of diffusers with random weights, large enough for their memory to be measured.

`python -m tests.large_pipelines KIND FOLDER` makes one in a process of its own, whose memory goes with it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.tiny_flow_pipelines import LATENTS, t5, t5_tokenizer
from tests.tiny_pipelines import clip_tokenizer, text_encoder

SIDE = 256


def save_unet(folder: Path) -> Path:
    """In the way of Stable Diffusion, a tenth of its weights: 380 MB."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    StableDiffusionPipeline(
        unet=unet,
        vae=_vae(4),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(folder / "words"),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_transformer(folder: Path) -> Path:
    """In the way of Stable Diffusion 3, a tenth of its weights."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        patch_size=2,
        in_channels=LATENTS,
        out_channels=LATENTS,
        num_layers=8,
        attention_head_dim=64,
        num_attention_heads=10,
        caption_projection_dim=640,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=96,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(LATENTS),
        text_encoder=text_encoder(projected=True),
        text_encoder_2=text_encoder(projected=True),
        text_encoder_3=t5(),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=clip_tokenizer(folder / "words"),
        tokenizer_3=t5_tokenizer(),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _vae(latents: int) -> Any:
    """As wide as Stable Diffusion's in its first layers, which take the most."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=latents,
        shift_factor=0.0,
        block_out_channels=(128, 128, 256, 256),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


KINDS = {"unet": save_unet, "transformer": save_transformer}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
