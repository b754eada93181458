"""The part that makes latents out of noise, as a text says; learned together with the text's encoder."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.digits import words
from tests.digits.pictures import SIDE, varied

WIDTH = 64
BATCH = 32
LEARNING_RATE = 1e-3
VARIATIONS = 8
"""How often each picture is put into latents, each time a little different."""
UNNAMED = 0.1
"""The share of pictures of which nothing is said; without them there is no guidance."""
AVERAGED = 0.998
"""Of the weights that are kept, how much of one step's is those of the steps before."""


class Denoiser(nn.Module):
    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=words.MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=SIDE // 4,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=WIDTH,
        )

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        spoken = self.text_encoder(tokens).last_hidden_state
        denoised: Tensor = self.unet(noisy, times, spoken).sample
        return denoised


def schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def learn(
    pictures: Tensor, digits: Tensor, *, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, steps: int
) -> Denoiser:
    """One that has learned what the digits look like, with weights averaged over its last steps."""
    model = Denoiser(tokenizer).train()
    kept = copy.deepcopy(model).eval().requires_grad_(False)
    latents, noises = _latents(pictures, autoencoder), schedule()
    said = _said(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(latents), (BATCH,))
        target = digits[chosen % len(digits)].where(torch.rand(BATCH) >= UNNAMED, len(words.NAMES))
        tokens = said[target, torch.randint(said.shape[1], (BATCH,))]
        loss = _loss(model, latents[chosen], tokens, noises)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
        _average(kept, model, share=min(AVERAGED, step / (step + 10)))
        if step % 100 == 0:
            print(f"denoiser {step}/{steps}: loss {loss.item():.4f}", flush=True)
    return kept


def _latents(pictures: Tensor, autoencoder: AutoencoderKL) -> Tensor:
    rounds = [autoencoder.encode(varied(pictures)).latent_dist.sample() for _ in range(VARIATIONS)]
    return torch.cat(rounds) * float(autoencoder.config["scaling_factor"])


def _said(tokenizer: CLIPTokenizer) -> Tensor:
    """Tokens [digit, phrase, token]; beyond the last digit there are those for nothing said."""
    texts = [words.prompts(digit) for digit in range(len(words.NAMES))]
    texts.append([""] * len(texts[0]))
    return torch.stack(
        [
            torch.tensor(tokenizer(some, padding="max_length", max_length=words.MAX_TOKENS)["input_ids"])
            for some in texts
        ]
    )


def _loss(model: Denoiser, latents: Tensor, tokens: Tensor, noises: DDIMScheduler) -> Tensor:
    noise = torch.randn_like(latents)
    times = torch.randint(noises.config["num_train_timesteps"], (len(latents),))
    noisy = noises.add_noise(latents, noise, times)
    wanted = noises.get_velocity(latents, noise, times)
    return functional.mse_loss(model(noisy, times, tokens), wanted)


def _average(kept: nn.Module, model: nn.Module, *, share: float) -> None:
    with torch.no_grad():
        for old, new in zip(kept.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 1 - share)
