"""Classifiers of pictures as timm saves them, told by config.json; a part of `formats`."""

from __future__ import annotations

from pathlib import Path

from ekiben.catalog.formats import Finding, folder_name, read_json, whole_safetensors
from ekiben.contract.model import Ability, Family
from ekiben.errors import ConfigError


def timm_classifier(folder: Path) -> Finding | None:
    """None where config.json is not timm's: it has `architecture`, transformers has `architectures`."""
    config = read_json(folder / "config.json")
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or "architectures" in config:
        return None
    if config.get("num_classes") == 0:
        raise ConfigError(f"{folder} holds a model of timm without classes, which makes features of pictures")
    parameters = whole_safetensors(folder) / 1e6
    return Finding(
        weights=folder,
        suggested_name=folder_name(folder),
        what=f"{architecture[:80]} of timm, {parameters:.1f}M parameters",
        family=Family.VISION,
        abilities=frozenset({Ability.CLASSIFY}),
        format="timm",
    )
