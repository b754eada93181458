"""EMBED: texts, tokens and pictures in, rows of numbers out, as the library computes them."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from ekiben.contract import (
    Embeddings,
    EmbedImage,
    EmbedInput,
    EmbedRequest,
    EngineError,
    InvalidRequest,
    Item,
    LoadFailed,
    LoadRequest,
    Run,
    UnsupportedParameter,
    check_embed_tokens,
)
from ekiben_sentence_transformers.features import Encoded, Features, TextFeatures, counts_of
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.packing import packing_of
from ekiben_sentence_transformers.prompts import Prompts
from ekiben_sentence_transformers.sizes import CHARACTERS, batch_length
from ekiben_sentence_transformers.tokens import TokenInput, token_input
from ekiben_sentence_transformers.watch import Watch

Vectors: TypeAlias = NDArray[np.float32]
Value: TypeAlias = Encoded | str | EmbedImage
"""What the tokenizer made of an input, or the input itself where the library is left to read it."""
Row: TypeAlias = tuple[Vectors, int]
"""A vector, and how many tokens were read for it."""

AT_ONCE: Final = 2**20
"""Characters of a request that are tokenized in one go; more of them, portion by portion."""
PICTURE_TOKENS: Final = 256
"""Where the model's config does not say how many patches it looks at."""


class EmbedBatching:
    """The Batching."""

    def __init__(self, model: SentenceTransformer, folder: ModelFolder, request: LoadRequest) -> None:
        self._model = model
        self._watch = Watch(model)
        self._reading = Reading(model, folder, request)
        self._prompts = Prompts(model)
        self._finish = Finish(model, folder, request)
        self.max_items = int(request.options["batch_size"])
        self.max_length = batch_length(request, folder)
        self.packs = self._reading.packs
        """Whether texts of all lengths go together without padding."""

    def items(self, request: EmbedRequest) -> Iterable[Item[Value] | None]:
        self._finish.check(request.dimensions)
        prompt = self._prompts.of(request)
        portions = _counted(self._reading.portions(request, prompt))
        if sum(len(entry) for entry in request.inputs if not isinstance(entry, EmbedImage)) > AT_ONCE:
            return _in_steps(portions)
        return [item for portion in portions for item in portion]

    def prepare(self, values: Sequence[Value]) -> Features:
        return self._reading.features(values)

    def compute(self, prepared: Features, run: Run) -> Sequence[Row]:
        with self._watch.over(run):
            out = self._model(prepared.on(self._model.device))
            rows = out["sentence_embedding"].float().cpu().numpy()
        if prepared.order is not None:
            rows[prepared.order] = rows.copy()
        return list(zip(rows, prepared.counts, strict=True))

    def answer(self, request: EmbedRequest, results: Sequence[Row]) -> Embeddings:
        rows = np.stack([row for row, _ in results])
        vectors = self._finish.vectors(rows, request.dimensions)
        return Embeddings(vectors=vectors.data, prompt_tokens=sum(count for _, count in results))


class Reading:
    """From the inputs of a request to what the model computes from."""

    def __init__(self, model: SentenceTransformer, folder: ModelFolder, request: LoadRequest) -> None:
        self._model = model
        self._truncates = bool(request.options["truncate"])
        self._picture_tokens = folder.picture_tokens() or PICTURE_TOKENS
        self._tokens: TokenInput | None = token_input(model)
        plain = self._tokens is not None and not _has_tasks(model)
        self._texts = TextFeatures(model.tokenizer) if plain else None
        self._packing = None if self._texts is None else packing_of(model)
        self.packs = self._packing is not None
        self._prompts_count = any(
            isinstance(module, Pooling) and not module.include_prompt for module in model
        )

    def portions(self, request: EmbedRequest, prompt: str) -> Iterator[list[Item[Value]]]:
        """The items of a few inputs at a time. Raises InvalidRequest and UnsupportedParameter."""
        self._check(request)
        begin, size = 0, 0
        for end, entry in enumerate(request.inputs):
            size += 1 if isinstance(entry, EmbedImage) else len(entry)
            if size >= AT_ONCE // 4 or end + 1 == len(request.inputs):
                yield self._items(request, begin, end + 1, prompt)
                begin, size = end + 1, 0

    def features(self, values: Sequence[Value]) -> Features:
        """All of one kind."""
        first = values[0]
        if self._texts is not None and isinstance(first, dict):
            encoded: Any = [_without_prompt(value) for value in values]
            pad_or_pack = self._texts.pad if self._packing is None else self._packing.pack
            features = pad_or_pack(encoded)
            features.tensors["modality"] = "text"
            if (length := first.get("prompt_length")) is not None:
                features.tensors["prompt_length"] = length[0]
            return features
        if isinstance(first, EmbedImage):
            pictures = [_picture(value) for value in values if isinstance(value, EmbedImage)]
            return Features(self._model.preprocess(pictures), [self._picture_tokens] * len(pictures))
        tensors = self._model.preprocess(list(values))
        return Features(tensors, counts_of(tensors, len(values)))

    def _check(self, request: EmbedRequest) -> None:
        """Quick. Raises InvalidRequest and UnsupportedParameter."""
        pictures = any(isinstance(entry, EmbedImage) for entry in request.inputs)
        if pictures and not self._model.supports("image"):
            raise UnsupportedParameter("this model takes texts only, not pictures", param="input")
        if self._tokens is not None:
            self._tokens.check(request.inputs)
        elif any(isinstance(entry, list) for entry in request.inputs):
            raise UnsupportedParameter("this model takes texts only, not tokens", param="input")
        if self._texts is None and (request.max_tokens is not None or request.truncate is not None):
            raise UnsupportedParameter(
                "where the texts of this model end is not for requests to say: leave it out",
                param="truncate" if request.max_tokens is None else "truncate_prompt_tokens",
            )

    def _items(self, request: EmbedRequest, begin: int, end: int, prompt: str) -> list[Item[Value]]:
        inputs = request.inputs[begin:end]
        if self._texts is None:
            return [self._whole(entry, prompt) for entry in inputs]
        asked = request.truncate
        cuts = asked if asked is not None else request.max_tokens is not None or self._truncates
        limit = min(filter(None, (self._model.max_seq_length, request.max_tokens)), default=None)
        texts = [prompt + entry for entry in inputs if isinstance(entry, str)]
        read = iter(self._texts.read(texts, limit=limit if cuts else None) if texts else ())
        length = self._prompt_length(prompt) if self._prompts_count and prompt else None
        items = []
        for index, entry in enumerate(inputs, begin):
            if isinstance(entry, EmbedImage):
                items.append(self._whole(entry, prompt))
                continue
            encoded = next(read) if isinstance(entry, str) else self._framed(entry, limit if cuts else None)
            _check_length(index, len(encoded["input_ids"]), limit)
            items.append(_item(encoded, length if isinstance(entry, str) else None))
        return items

    def _whole(self, entry: EmbedInput, prompt: str) -> Item[Value]:
        """An input that the library makes ready by itself."""
        if isinstance(entry, EmbedImage):
            return Item(entry, self._picture_tokens, group="picture")
        text = prompt + str(entry)
        return Item(text, 1 + min(len(text) // CHARACTERS, self._model.max_seq_length or 2**20))

    def _framed(self, tokens: list[int], limit: int | None) -> Encoded:
        assert self._tokens is not None and self._texts is not None
        framed = self._tokens.framed(tokens, max_length=limit)
        names = self._texts.tokenizer.model_input_names
        types: Encoded = {"token_type_ids": [0] * len(framed)} if "token_type_ids" in names else {}
        return {"input_ids": framed} | types

    def _prompt_length(self, prompt: str) -> int:
        """How many tokens at the beginning are the prompt's, a special one at its end not counted."""
        assert self._texts is not None
        tokens = self._texts.read([prompt], limit=None)[0]["input_ids"]
        return len(tokens) - (tokens[-1] in self._texts.tokenizer.all_special_ids)


class Finish:
    """From rows of the model to the vectors that were asked for."""

    def __init__(self, model: SentenceTransformer, folder: ModelFolder, request: LoadRequest) -> None:
        self._own = model.truncate_dim
        self._full = model.get_embedding_dimension()
        self._forced = bool(request.options["normalize"])
        self._normalize = self._forced or any(isinstance(module, Normalize) for module in model)
        self._shorter = _shorter_lengths(folder, request.options.get("matryoshka_dimensions"))

    def check(self, dimensions: int | None) -> None:
        """Raises UnsupportedParameter and InvalidRequest."""
        if dimensions is None or dimensions == self._full:
            return
        if self._full is not None and dimensions > self._full:
            raise InvalidRequest(
                f"'dimensions' is {dimensions}, the model has {self._full}", param="dimensions"
            )
        if self._shorter is not None and dimensions not in self._shorter:
            lengths = ", ".join(map(str, sorted(self._shorter)))
            only = f"can be cut to {lengths} only" if lengths else "was not trained for shorter vectors"
            raise UnsupportedParameter(f"this model {only}: leave 'dimensions' out", param="dimensions")

    def vectors(self, rows: Vectors, dimensions: int | None) -> Vectors:
        """Cut and scaled."""
        if not np.isfinite(rows).all():
            raise EngineError("the vectors overflowed: load the model with the option dtype: float32")
        rows = rows[:, : self._own]
        cut = dimensions is not None and dimensions < rows.shape[1]
        rows = rows[:, :dimensions]
        if self._forced or (cut and self._normalize):
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(rows, dtype=np.float32)


def _counted(portions: Iterable[list[Item[Value]]]) -> Iterator[list[Item[Value]]]:
    """The same. Raises TooManyTokens as soon as they are."""
    tokens = 0
    for portion in portions:
        tokens += sum(item.length for item in portion if isinstance(item.value, dict))
        check_embed_tokens(tokens)
        yield portion


def _in_steps(portions: Iterable[list[Item[Value]]]) -> Iterator[Item[Value] | None]:
    """All are read before the first is handed out: nothing is computed of a request that is refused."""
    read: list[list[Item[Value]]] = []
    for portion in portions:
        read.append(portion)
        yield None
    for portion in read:
        yield from portion


def _item(encoded: Encoded, prompt_length: int | None) -> Item[Value]:
    """Pooling leaves out one number of tokens in a whole batch."""
    group: Hashable = prompt_length
    if prompt_length is not None:
        encoded = encoded | {"prompt_length": [prompt_length]}
    return Item(encoded, len(encoded["input_ids"]), group=group)


def _without_prompt(value: object) -> Encoded:
    assert isinstance(value, dict)
    return {name: tokens for name, tokens in value.items() if name != "prompt_length"}


def _check_length(index: int, length: int, limit: int | None) -> None:
    if limit is not None and length > limit:
        raise InvalidRequest(
            f"entry {index} of 'input' has {length} tokens, the limit is {limit}",
            param="input",
            code="context_length_exceeded",
        )


def _picture(value: EmbedImage) -> Image.Image:
    return Image.open(io.BytesIO(value.png)).convert("RGB")


def _has_tasks(model: SentenceTransformer) -> bool:
    """Whether the library does more with its texts than to tokenize and to pad them."""
    first = model[0]
    return isinstance(first, Transformer) and (
        first.query_expansion is not None or first._can_flatten_inputs()
    )


def _shorter_lengths(folder: ModelFolder, option: Any) -> frozenset[int] | None:
    if option is None:
        return folder.matryoshka_dimensions()
    if not all(isinstance(entry, int) and not isinstance(entry, bool) and entry > 0 for entry in option):
        raise LoadFailed("the option matryoshka_dimensions must be a list of whole numbers from 1")
    return frozenset(option)
