"""Prompts that outlive a load: keys and values of the slots, on disk from one unload to the next load.

On a CPU reading a prompt back takes about a thousandth of the time that computing it takes.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final

from ekiben.contract import EngineError, InvalidRequest, LoadFailed, LoadRequest
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.sizes import is_for_vectors

_SHORTEST: Final = 64
"""Prompts of fewer tokens are computed as quickly as they are read."""
_MIB: Final = 2**20


def keeps_prompts(request: LoadRequest) -> bool:
    """Raises LoadFailed where llama.cpp cannot, or would mix them up."""
    if not request.options["keep_prompts_mb"] or request.cache is None:
        return False
    if request.companions or request.adapters or is_for_vectors(request):
        raise LoadFailed(
            "'keep_prompts_mb' cannot be had with companions, adapters, embeddings or reranking: leave it out"
        )
    return True


class KeptPrompts:
    """Of one load. Files of other weights, or of other options, are not read."""

    def __init__(self, client: LlamaClient, request: LoadRequest) -> None:
        assert request.cache is not None, "asked to keep prompts without a place for them"
        self._client = client
        self._folder: Path = request.cache
        self._limit_bytes: int = request.options["keep_prompts_mb"] * _MIB
        self._key = _key(request)

    async def restore(self) -> None:
        """Fill the slots, as far as there are prompts. Those that cannot be read are removed."""
        files = await asyncio.to_thread(self._prepare)
        for slot, file in zip(await self._client.slots(), files, strict=False):
            try:
                await self._client.slot(slot["id"], "restore", file.name)
            except (EngineError, InvalidRequest):  # of another llama.cpp, or cut off; its log says which
                file.unlink(missing_ok=True)

    async def save(self) -> None:
        """Keep the longest, as far as there is room. Never raises."""
        try:
            await self._save()
        except (EngineError, InvalidRequest, OSError):
            return  # the disk is full, or somebody emptied the folder: the next load begins without

    async def _save(self) -> None:
        await asyncio.to_thread(self._empty)
        held = {slot["id"]: slot.get("n_prompt_tokens") or 0 for slot in await self._client.slots()}
        left = self._limit_bytes
        for number, count in sorted(held.items(), key=lambda item: -item[1]):
            if count < _SHORTEST:
                return
            file = self._folder / f"{self._key}-{number}.part"
            written: int = (await self._client.slot(number, "save", file.name))["n_written"]
            left -= written
            if left < 0:
                file.unlink(missing_ok=True)
                return
            file.replace(file.with_suffix(".kv"))

    def _prepare(self) -> list[Path]:
        """Those that fit, the largest first."""
        return sorted(self._folder.glob(f"{self._key}-*.kv"), key=lambda file: -file.stat().st_size)

    def _empty(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._folder.iterdir():
            file.unlink(missing_ok=True)


def _key(request: LoadRequest) -> str:
    status = request.weights.stat()
    told = (str(request.weights), status.st_size, status.st_mtime_ns, sorted(request.options.items()))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
