"""Train `digits-diffusion` into a folder: about ten minutes of one core, the same weights each time.

The result is a pipeline in the library's own classes, with weights of 16 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from tests.digits import autoencoder, denoiser, pictures, words

SEED = 7
THREADS = 1


def main() -> None:
    given = argparse.ArgumentParser(prog="python -m tests.digits", description=__doc__)
    given.add_argument("folder", type=Path)
    given.add_argument("--autoencoder-steps", type=int, default=600)
    given.add_argument("--steps", type=int, default=2500)
    asked = given.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(THREADS)
    shown, digits = pictures.originals()
    tokenizer = words.tokenizer()
    vae = autoencoder.learn(shown, steps=asked.autoencoder_steps)
    learned = denoiser.learn(shown, digits, autoencoder=vae, tokenizer=tokenizer, steps=asked.steps)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=learned.text_encoder,
        tokenizer=tokenizer,
        unet=learned.unet,
        scheduler=denoiser.schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(asked.folder, safe_serialization=True)


main()
