"""The transformers engine for tests: a loaded model, and requests to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadRequest, ModelSpec, TextRequest
from ekiben.contract.testing import load_request
from ekiben.plugins.discovery import discover
from ekiben_transformers.engine import Transformers
from ekiben_transformers.model import TextModel

NAME: Final = "written"


def spec_of(folder: Path, adapters: Mapping[str, Path] | None = None) -> ModelSpec:
    variant = {
        "format": "safetensors",
        "engine": "transformers",
        "source": {"kind": "local", "path": str(folder)},
        "adapters": {name: {"kind": "local", "path": str(path)} for name, path in (adapters or {}).items()},
    }
    return ModelSpec.model_validate(
        {"name": NAME, "family": "llm", "abilities": ["chat", "complete"], "variants": [variant]}
    )


def order(
    folder: Path, scratch: Path, *, adapters: Mapping[str, Path] | None = None, **options: Any
) -> LoadRequest:
    section = discover().engines()["transformers"].manifest.engine
    assert section is not None
    small = {"context": 512, "parallel": 4}
    request = load_request(
        spec_of(folder, adapters),
        folder,
        scratch=scratch,
        threads=1,  # two that wait for each other are slow where tests run side by side
        options=section.defaults() | small | options,
    )
    return replace(request, adapters=dict(adapters or {}))


@asynccontextmanager
async def loaded(request: LoadRequest) -> AsyncIterator[TextModel]:
    model = await Transformers().load(request)
    assert isinstance(model, TextModel)
    try:
        yield model
    finally:
        await model.unload()


def asked(body: Mapping[str, Any], *, adapter: str | None = None) -> TextRequest:
    full = {"model": NAME, "temperature": 0} | dict(body)
    return TextRequest(
        body=full,
        raw=json.dumps(full).encode(),
        stream=bool(full.get("stream")),
        model=NAME,
        request_id="r",
        adapter=adapter,
    )


async def chat(model: TextModel, *, adapter: str | None = None, **body: Any) -> list[dict[str, Any]]:
    """All objects of the answer."""
    return [json.loads(item) async for item in model.chat(asked(body, adapter=adapter))]


async def complete(model: TextModel, *, adapter: str | None = None, **body: Any) -> list[dict[str, Any]]:
    return [json.loads(item) async for item in model.complete(asked(body, adapter=adapter))]
