"""As `tiny_pipelines`: those of diffusers whose pictures flow through a transformer, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_pipelines import WORDS, clip_tokenizer, text_encoder, vae

TEXT_WIDTH = 32
"""Of T5's numbers, as many as two of CLIP's."""
LATENTS = 16
QWEN_TEMPLATE = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def save_stable_diffusion_3(folder: Path) -> Path:
    """Three text encoders, none left out."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=LATENTS,
        out_channels=LATENTS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=32,
        pos_embed_max_size=32,
    )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=text_encoder(projected=True),
        text_encoder_2=text_encoder(projected=True),
        text_encoder_3=t5(),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=clip_tokenizer(folder / "words"),
        tokenizer_3=t5_tokenizer(),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_flux(folder: Path) -> Path:
    """Latents in packs of four, guidance as a number that the transformer reads."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENTS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(folder / "words"),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def save_qwen_image(folder: Path) -> Path:
    """A language model that reads the text, and an autoencoder for films of one picture."""
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    torch.manual_seed(0)
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENTS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1] * LATENTS,
        latents_std=[1.5] * LATENTS,
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENTS,
        out_channels=LATENTS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    QwenImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        text_encoder=_qwen(),
        tokenizer=_qwen_tokenizer(),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _vae() -> Any:
    return vae(
        latent_channels=LATENTS,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def t5() -> Any:
    """An encoder of numbers of `TEXT_WIDTH`."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(_t5_words()), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=4
    )
    return T5EncoderModel(config)


def _t5_words() -> list[tuple[str, float]]:
    words = [f"▁{word.removesuffix('</w>')}" for word in WORDS if word.endswith("</w>")]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((word, -1.0) for word in words)]


def t5_tokenizer() -> Any:
    """Of the same words as CLIP's."""
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=_t5_words(), extra_ids=0)


def _qwen() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 256 + len(QWEN_TEMPLATE),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10000.0},
    }
    seeing = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=seeing))


def _qwen_tokenizer() -> Any:
    """One token for each byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    names = [*QWEN_TEMPLATE, *sorted(ByteLevel.alphabet())]
    vocabulary = {name: number for number, name in enumerate(names)}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=list(QWEN_TEMPLATE[1:]))
