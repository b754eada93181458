"""A loaded model that hears, and the opening of one. Imports torch; `open_hearing` blocks."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from ekiben.contract import Ability, Batching, LoadFailed, LoadRequest
from ekiben_transformers.hearing.folder import HearingFolder
from ekiben_transformers.hearing.listener import Listener
from ekiben_transformers.loading import offline, open_model, open_tokenizer, reason


class HearingModel:
    """The LoadedModel. The runtime's batcher asks it."""

    def __init__(self, listener: Listener) -> None:
        self._batching: dict[Ability, Batching[Any, Any, Any, Any]] = {
            Ability.TRANSCRIBE: listener,
            Ability.TRANSLATE: listener,
        }

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        return self._batching

    async def unload(self) -> None:
        self._batching.clear()
        gc.collect()


def open_hearing(folder: HearingFolder, request: LoadRequest, *, dtype: str) -> HearingModel:
    """Raises LoadFailed."""
    tokenizer = open_tokenizer(folder)
    try:
        with offline():
            extractor = WhisperFeatureExtractor.from_pretrained(folder.path, local_files_only=True)
    except Exception as error:
        raise LoadFailed(f"the sound's processor cannot be loaded: {reason(error, folder)}") from error
    request.report(0.2)
    model = open_model(folder, request, dtype=dtype, kind=WhisperForConditionalGeneration)
    request.report(1.0)
    return HearingModel(Listener(model, tokenizer, extractor, max_items=int(request.options["windows"])))
