"""How many requests run together, how long each may be, and how much is computed in one step.

What the options leave open follows from the model and the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ekiben.contract import Ability, Family, LoadRequest
from ekiben.contract.gguf import GgufModel

_TEXT_CONTEXT: Final = 4096
_EMBEDDING_CONTEXT: Final = 2048
"""Of embeddings the longest input is computed in one step, whose scores grow with its square."""
_PARALLEL: Final = 4
"""On two cores a token of four requests together costs 0.75 of one of two, and of eight no less."""
_PARALLEL_ENCODER: Final = 16
_CPU_BATCH: Final = 32
_GPU_BATCH: Final = 512
_PICTURE_BATCH: Final = 512
"""Some models look at all tokens of a picture at once: they must lie in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    context: int
    """Tokens that one request may use."""
    parallel: int
    """Requests, or inputs to embed, at a time."""
    step: int
    """Tokens of prompts that are computed at once, which nothing can interrupt."""
    encodes: bool
    """It reads each input as a whole and keeps nothing of it: there are no keys and values to hold."""

    @property
    def tokens(self) -> int:
        """Of all contexts."""
        return self.context * self.parallel


def sizes_of(request: LoadRequest, model: GgufModel) -> Sizes:
    """For a model that writes, or one that embeds or reranks."""
    options = request.options
    embeds = is_for_vectors(request)
    encodes = embeds and model.metadata.get(f"{model.architecture}.attention.causal") is False
    wanted = options.get("context") or (_EMBEDDING_CONTEXT if embeds else _TEXT_CONTEXT)
    context = min(wanted, model.context_tokens or wanted)
    parallel = options.get("parallel") or (_PARALLEL_ENCODER if encodes else _PARALLEL)
    given = options.get("batch") or (_CPU_BATCH if request.device.kind == "cpu" else _GPU_BATCH)
    if embeds:
        step = context
    elif "mmproj" in request.companions:
        step = max(given, _PICTURE_BATCH)
    else:
        step = given
    return Sizes(context=context, parallel=parallel, step=step, encodes=encodes)


def is_for_vectors(request: LoadRequest) -> bool:
    """Whether it is loaded to embed or to rerank, which llama.cpp does in a mode of its own."""
    return request.model.family is Family.EMBEDDING


def reranks(request: LoadRequest) -> bool:
    return Ability.RERANK in request.model.abilities
