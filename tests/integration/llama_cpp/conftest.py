"""A real model, loaded once for each file of tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ekiben_llama_cpp.model import LlamaModel
from tests.integration.llama_lab import MODEL, Weights, loaded


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaModel]:
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, tmp_path_factory.mktemp("llama")) as model:
        yield model
