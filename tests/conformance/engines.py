"""The text engines that the matrices run over: a new one joins by a line in `TEXT_ENGINES`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from tests.running import Platform
from tests.smollm2_folder import default_cache, smollm2_folder

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


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "transformers": {},
    "vllm": {"max_model_len": 2048, "max_num_seqs": 8, "kv_cache_mb": 256},
}


def vllm_home() -> Path:
    """Where `make test-vllm` keeps vLLM's environment."""
    return Path(os.environ.get("EKIBEN_TEST_VLLM_HOME") or default_cache() / "vllm")


def equip(platform: Platform, engine: str) -> None:
    """Let a platform have the engine's environment; skips where there is none."""
    if engine == "vllm" and not (platform.home / "engines").exists():
        if not (vllm_home() / "engines" / "vllm" / "current").exists():
            pytest.skip(f"there is no vLLM in {vllm_home()}: make test-vllm")
        (platform.home / "engines").symlink_to(vllm_home().absolute() / "engines", target_is_directory=True)


def model_on(platform: Platform, engine: str) -> str:
    """The name of a small chat model that the engine serves; skips where the engine is not installed."""
    if engine == "llama_cpp":
        return GGUF_MODEL
    equip(platform, engine)
    name = f"{FOLDER_MODEL}-{engine}"
    _add(platform, folder_spec(name, engine))
    return name


def folder_spec(name: str, engine: str) -> dict[str, Any]:
    """SmolLM2 as a safetensors folder."""
    source = {"kind": "local", "path": str(smollm2_folder())}
    variant = {"format": "safetensors", "engine": engine, "source": source, "options": OPTIONS[engine]}
    return {"name": name, "family": "llm", "abilities": ["chat", "complete"], "variants": [variant]}


def _add(platform: Platform, spec: dict[str, Any]) -> None:
    if any(model["id"] == spec["name"] for model in platform.get("/v1/models")["data"]):
        return
    added = platform.post("/api/models", {"spec": spec})
    assert added["error"] is None, added
