"""Tiny random models that recognise pictures, in the library's own folders."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import transformers

SIDE: Final = 32


def vit_folder(folder: Path) -> Path:
    """A classifier of pictures with four labels."""
    names = ("train", "platform", "lunch", "ticket")
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=8,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def yolos_folder(folder: Path) -> Path:
    """A detector of objects."""
    torch.manual_seed(2)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=7,
        id2label={0: "train", 1: "platform"},
    )
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    size = {"shortest_edge": 48, "longest_edge": 96}
    transformers.YolosImageProcessorPil(size=size).save_pretrained(folder)
    return folder
