"""From weights to a loaded classifier. Imports torch and timm; blocks."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_timm.classification import Classification
from ekiben_timm.conversion import converted
from ekiben_timm.labels import class_names
from ekiben_timm.library import timm, torch
from ekiben_timm.recipe import Recipe
from ekiben_timm.weights import Weights


def open_classifier(weights: Weights, request: LoadRequest, *, max_length: int) -> Classification:
    """Raises LoadFailed."""
    if request.device.kind == "cpu":
        torch.set_num_threads(request.threads)
    if not timm.is_model(weights.architecture):
        raise LoadFailed(f"timm {timm.__version__} has no model named {weights.architecture!r}")
    request.report(0.2)
    model = _model(weights, request)
    classes = int(getattr(model, "num_classes", 0) or 0)
    if classes < 1:
        raise LoadFailed(f"{weights.architecture} has no classes: it makes features of pictures")
    recipe = Recipe.of(model.pretrained_cfg) if weights.is_checkpoint else weights.recipe
    return Classification(
        model.to(str(request.device)).eval(),
        recipe,
        class_names(weights, classes),
        max_items=int(request.options["pictures"]),
        max_length=max_length,
    )


def _model(weights: Weights, request: LoadRequest) -> Any:
    """With its weights, which the library brings into the form of its present definitions."""
    try:
        if weights.is_checkpoint:
            empty = timm.create_model(weights.architecture)
            shapes = {name: tuple(one.shape) for name, one in empty.state_dict().items()}
            file = converted(weights, shapes, request.cache or request.scratch)
            facts = dict(empty.pretrained_cfg)
        else:
            file, facts = weights.file, dict(weights.facts)
        request.report(0.5)
        for name in ("url", "hf_hub_id", "custom_load"):
            facts[name] = None
        return timm.create_model(
            weights.architecture,
            pretrained=True,
            pretrained_cfg=facts | {"file": str(file)},
            **weights.arguments,
        )
    except (LoadFailed, MemoryError):
        raise
    except (SafetensorError, Exception) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise LoadFailed(
            f"{weights.file.name!r} cannot be loaded as {weights.architecture}: {reason}"
        ) from error
