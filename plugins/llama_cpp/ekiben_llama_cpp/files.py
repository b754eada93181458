"""The files of a load, read as far as their headers: what each is, and whether they belong together.

Everything that can be refused in a sentence is refused here, before llama.cpp sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ekiben.contract import ConfigError, LoadFailed, LoadRequest
from ekiben.contract.gguf import GgufModel, read_gguf, shards
from ekiben_llama_cpp.projector import check_projector
from ekiben_llama_cpp.sizes import is_for_vectors

_VOCABULARY: Final = ("tokenizer.ggml.model", "tokenizer.ggml.pre")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    model: GgufModel
    size_bytes: int
    """Of all of them."""
    draft: GgufModel | None = None
    projector: GgufModel | None = None
    projector_bytes: int = 0

    @property
    def sees(self) -> bool:
        return self._has("clip.has_vision_encoder")

    @property
    def hears(self) -> bool:
        return self._has("clip.has_audio_encoder")

    def _has(self, key: str) -> bool:
        return self.projector is not None and self.projector.metadata.get(key) is True


def read_files(request: LoadRequest) -> ModelFiles:
    """Raises LoadFailed."""
    model, size_bytes = _read(request.weights, kind="model")
    _check_uses(request)
    draft, draft_bytes = _companion(request.companions, "draft", kind="model")
    projector, projector_bytes = _companion(request.companions, "mmproj", kind="mmproj")
    if projector is not None:
        check_projector(projector.metadata, request.companions["mmproj"].name)
    if draft is not None and any(draft.metadata.get(key) != model.metadata.get(key) for key in _VOCABULARY):
        raise LoadFailed("the draft model has another vocabulary than the model: choose one of its family")
    return ModelFiles(
        model=model,
        size_bytes=size_bytes + draft_bytes + projector_bytes + _read_adapters(request, model),
        draft=draft,
        projector=projector,
        projector_bytes=projector_bytes,
    )


def _check_uses(request: LoadRequest) -> None:
    if not is_for_vectors(request):
        return
    extras = [*request.companions, *(["adapters"] if request.adapters else [])]
    if extras:
        raise LoadFailed(f"models for embeddings and reranking take no {extras[0]}: leave it out")


def _companion(companions: Mapping[str, Path], name: str, *, kind: str) -> tuple[GgufModel | None, int]:
    return _read(companions[name], kind=kind) if name in companions else (None, 0)


def _read_adapters(request: LoadRequest, model: GgufModel) -> int:
    """Their size."""
    size_bytes = 0
    for name, path in request.adapters.items():
        adapter, adapter_bytes = _read(path, kind="adapter")
        if adapter.architecture != model.architecture:
            raise LoadFailed(
                f"the adapter {name!r} is for models of architecture {adapter.architecture!r}, "
                f"and this one is of {model.architecture!r}: choose another one"
            )
        size_bytes += adapter_bytes
    return size_bytes


def _read(path: Path, *, kind: str) -> tuple[GgufModel, int]:
    try:
        files = shards(path)
        found = read_gguf(files[0])
    except ConfigError as error:
        raise LoadFailed(error.message) from None
    # Projectors from before there were kinds are models by their own account.
    is_kind = "mmproj" if found.architecture == "clip" else found.kind
    if is_kind != kind:
        wanted = {"model": "a model", "mmproj": "a projector", "adapter": "an adapter"}[kind]
        raise LoadFailed(f"{path.name!r} is not {wanted} but of kind {is_kind!r}: choose another file")
    return found, sum(file.stat().st_size for file in files)
