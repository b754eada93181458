"""The text engines that the matrices run over: a new one joins by a line in `TEXT_ENGINES`."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ekiben.plugins.discovery import discover
from tests.running import Platform
from tests.smollm2_folder import smollm2_folder

GGUF_MODEL: Final = "smollm2-135m-instruct"
FOLDER_MODEL: Final = "smollm2-folder"
TEXT_ENGINES: Final = (
    "llama_cpp",
    "transformers",
    pytest.param("vllm", marks=pytest.mark.vllm),
)
LESS_OFTEN: Final = (
    "llama_cpp",
    pytest.param("transformers", marks=pytest.mark.slow),
    pytest.param("vllm", marks=pytest.mark.vllm),
)
"""The same engines, for what takes long on all of them."""


def model_on(platform: Platform, engine: str) -> str:
    """The name of a small chat model that the engine serves; skips where the engine is not installed."""
    if engine == "llama_cpp":
        return GGUF_MODEL
    if engine not in discover().engines():
        pytest.skip(f"there is no engine {engine!r} here")
    name = f"{FOLDER_MODEL}-{engine}"
    _add(platform, folder_spec(name, engine))
    return name


def folder_spec(name: str, engine: str) -> dict[str, Any]:
    """SmolLM2 as a safetensors folder."""
    source = {"kind": "local", "path": str(smollm2_folder())}
    variant = {"format": "safetensors", "engine": engine, "source": source}
    return {"name": name, "family": "llm", "abilities": ["chat", "complete"], "variants": [variant]}


def _add(platform: Platform, spec: dict[str, Any]) -> None:
    if any(model["id"] == spec["name"] for model in platform.get("/v1/models")["data"]):
        return
    added = platform.post("/api/models", {"spec": spec})
    assert added["error"] is None, added
