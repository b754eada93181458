"""From a folder to a loaded model, by what the model is to be able to.

Imports torch, so only `load` imports this module. Blocks.
"""

from __future__ import annotations

from typing import Any

import torch

from ekiben.contract import Ability, Batching, LoadedModel, LoadFailed, LoadRequest
from ekiben.contract.threads import WorkerThread
from ekiben_sentence_transformers import backends, library
from ekiben_sentence_transformers.embedding import EmbedBatching
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.judging import JudgeBatching
from ekiben_sentence_transformers.loaded import LoadedEncoder, SleepyEncoder
from ekiben_sentence_transformers.matching import MatchBatching
from ekiben_sentence_transformers.moderating import ModerateBatching


def open_model(folder: ModelFolder, request: LoadRequest) -> LoadedModel:
    """Raises LoadFailed."""
    torch.set_num_threads(request.threads)
    backends.check(request)
    if len(request.model.abilities) != 1:
        raise LoadFailed(
            "a model of this engine can do one thing, embed, rerank or moderate: "
            "give each ability a spec of its own"
        )
    [ability] = request.model.abilities
    model, batching = _open(ability, folder, request)
    if request.device.kind == "cpu":
        return LoadedEncoder(model, ability, batching)
    worker = WorkerThread("sentence-transformers")
    return SleepyEncoder(model, ability, batching, device=str(request.device), worker=worker)


def _open(
    ability: Ability, folder: ModelFolder, request: LoadRequest
) -> tuple[torch.nn.Module, Batching[Any, Any, Any, Any]]:
    if ability is Ability.EMBED:
        embedder = library.open_embedder(folder, request)
        return embedder, EmbedBatching(embedder, folder, request)
    if ability is Ability.MODERATE:
        classifier, tokenizer = library.open_classifier(folder, request)
        return classifier, ModerateBatching(classifier, tokenizer, folder, request)
    if folder.is_multi_vector():
        matcher = library.open_matcher(folder, request)
        return matcher, MatchBatching(matcher, folder, request)
    judge = library.open_judge(folder, request)
    return judge, JudgeBatching(judge, folder, request)
