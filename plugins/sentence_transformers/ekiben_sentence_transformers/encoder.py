"""The model itself: texts or tokens in, rows of numbers out, as the library computes them.

Imports torch, so only `load` imports this module. Everything here blocks and is for one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants as hub
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from transformers.utils import logging as transformers_logging

from ekiben.contract import (
    EmbedInput,
    EmbedRequest,
    EngineError,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    UnsupportedParameter,
)
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.tokens import token_input

Vectors = NDArray[np.float32]


class Stop:
    """Set by whoever no longer wants a batch; seen at the model's next layer."""

    def __init__(self) -> None:
        self.wanted = False


class Stopped(Exception):
    """The batch was given up half way."""


class Encoder:
    def __init__(self, folder: ModelFolder, request: LoadRequest) -> None:
        options = request.options
        torch.set_num_threads(request.threads)
        self._model = _load(folder, device=str(request.device), dtype=str(options["dtype"]))
        self.truncates = bool(options["truncate"])
        self._set_max_length(options.get("max_length"))
        self._normalize = bool(options["normalize"]) or any(
            isinstance(module, Normalize) for module in self._model
        )
        self._forced = bool(options["normalize"])
        self._shorter = _shorter_lengths(folder, options.get("matryoshka_dimensions"))
        self._tokens = token_input(self._model)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name or "")
        self._stop = Stop()
        for module in self._model.modules():
            module.register_forward_pre_hook(self._before_layer)

    def move(self, device: str) -> None:
        """Have the weights elsewhere. Raises LoadFailed when there is no room for them."""
        try:
            self._model.to(device)
        except torch.OutOfMemoryError as error:
            raise LoadFailed(f"the model does not fit on {device!r} any more: {error}") from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def check(self, request: EmbedRequest) -> None:
        """Quick. Raises InvalidRequest and UnsupportedParameter."""
        self._check_dimensions(request.dimensions)
        if self._tokens is not None:
            self._tokens.check(request.inputs)
        elif not all(isinstance(entry, str) for entry in request.inputs):
            raise UnsupportedParameter("this model takes texts only, not tokens", param="input")

    def check_lengths(self, inputs: Sequence[EmbedInput]) -> None:
        """Raises InvalidRequest for an input that does not fit and may not be truncated."""
        limit = self._model.max_seq_length
        for index, entry in enumerate(inputs):
            if limit is not None and (length := self._length(entry)) > limit:
                raise InvalidRequest(
                    f"entry {index} of 'input' has {length} tokens, the model takes {limit}",
                    param="input",
                    code="context_length_exceeded",
                )

    def encode(self, inputs: Sequence[EmbedInput], stop: Stop) -> tuple[Vectors, list[int]]:
        """A row for each input, and how many tokens the model read of each. All of one kind.

        Raises Stopped and EngineError.
        """
        self._stop = stop
        try:
            with torch.inference_mode():
                features = self._features(inputs)
                counts = _counts(features, len(inputs))
                features = {
                    name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
                    for name, value in features.items()
                }
                rows = self._model(features)["sentence_embedding"].float().cpu().numpy()
                rows = rows[:, : self._model.truncate_dim]
        except Stopped:
            raise
        except Exception as error:
            raise EngineError(f"the model could not compute the vectors: {type(error).__name__}") from error
        return rows, counts

    def finish(self, rows: Vectors, dimensions: int | None) -> Vectors:
        """Cut and scaled as asked for."""
        if not np.isfinite(rows).all():
            raise EngineError("the vectors overflowed: load the model with the option dtype: float32")
        cut = dimensions is not None and dimensions < rows.shape[1]
        rows = rows[:, :dimensions]
        if self._forced or (cut and self._normalize):
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(rows, dtype=np.float32)

    def _check_dimensions(self, dimensions: int | None) -> None:
        """Raises UnsupportedParameter and InvalidRequest."""
        full = self._model.get_embedding_dimension()
        if dimensions is None or dimensions == full:
            return
        if full is not None and dimensions > full:
            raise InvalidRequest(f"'dimensions' is {dimensions}, the model has {full}", param="dimensions")
        if self._shorter is not None and dimensions not in self._shorter:
            lengths = ", ".join(map(str, sorted(self._shorter)))
            only = f"can be cut to {lengths} only" if lengths else "was not trained for shorter vectors"
            raise UnsupportedParameter(f"this model {only}: leave 'dimensions' out", param="dimensions")

    def _length(self, entry: EmbedInput) -> int:
        if isinstance(entry, str):
            return len(self._model.tokenizer((self._prompt or "") + entry, verbose=False)["input_ids"])
        return len(entry if self._tokens is None else self._tokens.framed(entry))

    def _features(self, inputs: Sequence[EmbedInput]) -> dict[str, Any]:
        texts = [entry for entry in inputs if isinstance(entry, str)]
        if texts or self._tokens is None:
            return self._model.preprocess(texts, prompt=self._prompt)
        limit = self._model.max_seq_length
        framed = [
            self._tokens.framed(entry, max_length=limit) for entry in inputs if not isinstance(entry, str)
        ]
        padded = self._model.tokenizer.pad({"input_ids": framed}, return_tensors="pt")
        return {**padded, "modality": "text"}

    def _set_max_length(self, max_length: int | None) -> None:
        if max_length is None:
            return
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions is not None and max_length > positions:
            raise LoadFailed(f"the option max_length is {max_length}, the model has {positions} positions")
        self._model.max_seq_length = max_length

    def _before_layer(self, module: object, inputs: object) -> None:
        if self._stop.wanted:
            raise Stopped


def _load(folder: ModelFolder, *, device: str, dtype: str) -> SentenceTransformer:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _offline():
            model = SentenceTransformer(
                str(folder.path),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)},
            )
    except Exception as error:
        reason = str(error).replace(str(folder.path), folder.path.name) or type(error).__name__
        raise LoadFailed(f"sentence-transformers cannot load the model: {reason.splitlines()[0]}") from error
    return model.eval()


@contextmanager
def _offline() -> Iterator[None]:
    """All that a model needs is in its folder; a config that names more elsewhere must fail, not fetch it."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _shorter_lengths(folder: ModelFolder, option: Any) -> frozenset[int] | None:
    if option is None:
        return folder.matryoshka_dimensions()
    if not all(isinstance(entry, int) and not isinstance(entry, bool) and entry > 0 for entry in option):
        raise LoadFailed("the option matryoshka_dimensions must be a list of whole numbers from 1")
    return frozenset(option)


def _counts(features: dict[str, Any], inputs: int) -> list[int]:
    mask = features.get("attention_mask")
    if mask is not None:
        return [int(count) for count in mask.sum(dim=1)]
    # Models without attention get all texts in one row, with the place where each begins.
    starts = [*features["offsets"].tolist(), features["input_ids"].numel()]
    return [starts[i + 1] - starts[i] for i in range(inputs)]
