"""The folder of a model that sees, judged before a library opens it."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec
from typing import Any, Final

from ekiben.contract import LoadFailed
from ekiben_transformers.folder import ModelFolder

DEFAULT_SIDE: Final = 224


class Task(Enum):
    """What the model's class is made for; the value is the library's way to open it."""

    CLASSIFY = "AutoModelForImageClassification"
    CHOOSE = "AutoModelForZeroShotImageClassification"
    DETECT = "AutoModelForObjectDetection"


_ENDINGS: Final = {"ForImageClassification": Task.CLASSIFY, "ForObjectDetection": Task.DETECT}
_FOR_TIMM: Final = ("timm", "torchvision")
"""What transformers opens models of timm with; it asks for both."""
_CHOOSERS: Final = frozenset({"clip", "siglip", "siglip2", "align", "altclip", "chinese_clip", "metaclip_2"})


class SeeingFolder(ModelFolder):
    def check(self) -> None:
        super().check()
        if not self.picture_config():
            raise LoadFailed(
                f"the folder {self.path.name!r} lacks preprocessor_config.json, which says how pictures are "
                "made ready: give the whole folder of the model"
            )
        if self.picture_config().get("auto_map"):
            raise LoadFailed("preprocessor_config.json names code of its own (auto_map), which is never run")

    @property
    def task(self) -> Task:
        """Raises LoadFailed for models that do neither."""
        config = self.json("config.json")
        kinds = [str(kind) for kind in config.get("architectures") or []]
        for kind in kinds:
            for ending, task in _ENDINGS.items():
                if kind.endswith(ending):
                    return task
        if config.get("model_type") in _CHOOSERS:
            return Task.CHOOSE
        raise LoadFailed(
            f"{kinds[0] if kinds else 'the model'} neither classifies pictures nor finds objects in them"
        )

    def picture_config(self) -> dict[str, Any]:
        """How pictures are made ready."""
        return self.json("preprocessor_config.json") or self.json("processor_config.json")

    def pixels(self) -> int:
        """Of a picture as the model sees it, at most."""
        config = self.picture_config()
        config = config.get("image_processor", config)
        for name in ("crop_size", "size"):
            value = config.get(name)
            if isinstance(value, int):
                return value * value
            if isinstance(value, dict) and (sides := [int(side) for side in value.values() if side]):
                return max(sides) * min(sides)
        return DEFAULT_SIDE**2

    def _check_architecture(self, config: dict[str, Any]) -> None:
        _ = self.task
        part = _part_of_timm(config)
        missing = [name for name in _FOR_TIMM if part and find_spec(name) is None]
        if missing:
            raise LoadFailed(
                f"the model has {part}, which needs {' and '.join(missing)} beside transformers, for "
                "the same torch: install that, or choose a model without timm; classifiers in timm's own "
                "folders are for the engine timm"
            )


def _part_of_timm(config: dict[str, Any]) -> str | None:
    """What of the model is not transformers' own."""
    if config.get("model_type") == "timm_wrapper":
        return "a network of timm (timm_wrapper)"
    backbone = config.get("backbone_config")
    kind = backbone.get("model_type") if isinstance(backbone, dict) else None
    if kind == "timm_backbone" or (config.get("use_timm_backbone") is True and kind is None):
        named = backbone.get("backbone") if isinstance(backbone, dict) else config.get("backbone")
        return f"a backbone of timm ({str(named)[:80]})"
    return None
