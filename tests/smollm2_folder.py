"""SmolLM2 135M as a safetensors folder, made once from the catalog's GGUF file and kept in a cache folder.

`python -m tests.smollm2_folder` makes it and prints where it lies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ekiben.catalog.specs import resolve_model
from ekiben.catalog.weights import WeightsStore
from ekiben.plugins.discovery import discover

MODEL: Final = "smollm2-135m-instruct"
FOLDER: Final = "smollm2-135m-bf16"


def smollm2_folder(cache: Path | None = None) -> Path:
    """The folder: config, tokenizer with its chat template, and `model.safetensors` in bfloat16.

    `cache`: where it is kept; by default where tests keep weights. Callers in several processes wait for
    the one that makes it, which takes some twenty seconds and about a gigabyte.
    """
    cache = cache or default_cache()
    folder = cache / FOLDER
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{FOLDER}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=cache))
            try:
                _make(_gguf(cache), unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def default_cache() -> Path:
    """As the fixture `weights_home` has it."""
    return Path(os.environ.get("EKIBEN_TEST_WEIGHTS") or "~/.cache/ekiben-tests").expanduser().absolute()


def _gguf(cache: Path) -> Path:
    plugins = discover()
    source = resolve_model(MODEL, plugins=plugins).variants[0].source
    store = WeightsStore(cache, plugins)
    if (path := store.local_path(source)) is not None:
        return path
    with ThreadPoolExecutor(max_workers=1) as thread:  # the caller may be inside a running loop
        return thread.submit(asyncio.run, store.ensure(source, report=lambda _: None)).result()


def _make(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    print(smollm2_folder())
