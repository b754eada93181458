"""The part that makes small latents of pictures, and pictures of latents."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from tests.digits.pictures import SIDE, varied

CHANNELS = (8, 16, 32)
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_OF_ORDER = 1e-4
"""How much it counts that latents are near to normal noise."""


def learn(pictures: Tensor, *, steps: int) -> AutoencoderKL:
    """One that has seen the pictures, with the scale that its latents have."""
    model = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        batch = varied(pictures[torch.randint(len(pictures), (BATCH,))])
        seen = model.encode(batch).latent_dist
        loss = functional.mse_loss(model.decode(seen.sample()).sample, batch)
        loss = loss + WEIGHT_OF_ORDER * seen.kl().mean() / seen.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"autoencoder {step}/{steps}: loss {loss.item():.4f}", flush=True)
    model.eval().requires_grad_(False)
    latents = model.encode(pictures).latent_dist.sample()
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return model
