"""A loaded model that sees, and the opening of one. Imports torch; `open_seeing` blocks."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoImageProcessor

from ekiben.contract import Ability, Batching, LoadFailed, LoadRequest
from ekiben_transformers.loading import offline, open_model, open_tokenizer, reason
from ekiben_transformers.vision.classification import Choosing, Classification
from ekiben_transformers.vision.detection import Detecting
from ekiben_transformers.vision.folder import SeeingFolder, Task
from ekiben_transformers.vision.network import Network


class SeeingModel:
    """The LoadedModel. The runtime's batcher asks it."""

    def __init__(self, batching: Mapping[Ability, Batching[Any, Any, Any, Any]]) -> None:
        self._batching = dict(batching)

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        return self._batching

    async def unload(self) -> None:
        self._batching.clear()
        gc.collect()


def open_seeing(folder: SeeingFolder, request: LoadRequest, *, dtype: str) -> SeeingModel:
    """Raises LoadFailed."""
    task = folder.task
    processor = _open_processor(folder)
    request.report(0.2)
    kind = getattr(transformers, task.value)
    model = open_model(folder, request, dtype=dtype, kind=kind, attention=None)
    network = Network(model, processor, max_items=int(request.options["pictures"]))
    request.report(1.0)
    if task is Task.DETECT:
        return SeeingModel({Ability.DETECT: Detecting(network)})
    if task is Task.CHOOSE:
        return SeeingModel({Ability.CLASSIFY: Choosing(network, open_tokenizer(folder))})
    return SeeingModel({Ability.CLASSIFY: Classification(network)})


def _open_processor(folder: SeeingFolder) -> Any:
    """Pillow's, which is there with or without torchvision: the same picture gives the same numbers."""
    try:
        with offline():
            return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder.path, backend="pil", trust_remote_code=False, local_files_only=True
            )
    except Exception as error:
        raise LoadFailed(f"the pictures' processor cannot be loaded: {reason(error, folder)}") from error
