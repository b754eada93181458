"""Adapters, projectors, draft models, split files and gaps, over models made by the test."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import (
    Chat,
    Complete,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    TextRequest,
    TokenizeRequest,
    UnsupportedParameter,
)
from ekiben.contract.testing import blank_png
from ekiben_llama_cpp.engine import LlamaCpp
from ekiben_llama_cpp.model import LlamaModel
from tests import tiny_gguf
from tests.integration.llama_lab import load_order

QUESTION = [{"role": "user", "content": "what?"}]


@asynccontextmanager
async def loaded(order: LoadRequest) -> AsyncIterator[LlamaModel]:
    model = await LlamaCpp().load(order)
    assert isinstance(model, LlamaModel)
    try:
        yield model
    finally:
        await model.unload()


async def said(model: Chat, content: Any = "what?", *, adapter: str | None = None, **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 8} | fields
    request = TextRequest(body=body, raw=b"", stream=False, model="m", request_id="r", adapter=adapter)
    (answer,) = [json.loads(item) async for item in model.chat(request)]
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def first_token(model: Chat, content: Any = "what?") -> tuple[int, float]:
    """How long the prompt was, and how likely what followed: that tells prompts apart."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "logprobs": True}
    body |= {"temperature": 0, "ignore_eos": True, "logit_bias": {"65": 50}}
    request = TextRequest(body=body, raw=b"", stream=False, model="m", request_id="r")
    (answer,) = [json.loads(item) async for item in model.chat(request)]
    return answer["usage"]["prompt_tokens"], answer["choices"][0]["logprobs"]["content"][0]["logprob"]


async def completed(model: Complete, **fields: Any) -> dict[str, Any]:
    body = {"temperature": 0, "max_tokens": 8} | fields
    request = TextRequest(body=body, raw=b"", stream=False, model="m", request_id="r")
    (answer,) = [json.loads(item) async for item in model.complete(request)]
    whole: dict[str, Any] = answer
    return whole


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    base = tiny_gguf.llama_model(folder / "base.gguf", infills=True)
    tiny_gguf.llama_model(folder / "other.gguf", seed=9)
    for name, seed in (("loud", 3), ("shy", 5)):
        tiny_gguf.adapter(folder / f"{name}.gguf", base, seed=seed)
    tiny_gguf.projector(folder / "eye.gguf")
    tiny_gguf.projector(folder / "ear.gguf", pictures=False)
    tiny_gguf.embedding_model(folder / "bert.gguf")
    return folder


async def test_each_request_has_the_adapter_it_asks_for(files: Path, tmp_path: Path) -> None:
    adapters = {"loud": files / "loud.gguf", "shy": files / "shy.gguf"}
    async with loaded(replace(load_order(files / "base.gguf", tmp_path), adapters=adapters)) as model:
        plain = await said(model)
        loud, shy = await said(model, adapter="loud"), await said(model, adapter="shy")
        assert len({plain, loud, shy}) == 3
        assert [await said(model, adapter=name) for name in (None, "loud", "shy")] == [plain, loud, shy]


async def test_an_adapter_for_another_architecture_is_refused(files: Path, tmp_path: Path) -> None:
    for path, reason in ((files / "bert.gguf", "kind 'model'"), (tmp_path / "none.gguf", "cannot be read")):
        order = replace(load_order(files / "base.gguf", tmp_path), adapters={"a": path})
        with pytest.raises(LoadFailed, match=reason):
            await LlamaCpp().load(order)


async def test_a_picture_is_seen(files: Path, tmp_path: Path) -> None:
    order = replace(load_order(files / "base.gguf", tmp_path), companions={"mmproj": files / "eye.gguf"})
    async with loaded(order) as model:
        plain, small, large = [
            await first_token(model, part) for part in ("what?", picture(60, 40), picture(9, 9))
        ]
        assert small[0] > plain[0]
        assert small[1] != large[1]
        assert await first_token(model, PICTURES[0]) == small
        with pytest.raises(UnsupportedParameter, match="image_url and text only"):
            await said(model, sound(0.1))
        broken = base64.b64encode(blank_png(20, 20)[:-30] + b"\0" * 30).decode()
        with pytest.raises(InvalidRequest):
            await said(model, picture_of(broken))
        assert await said(model)


async def test_a_sound_is_heard(files: Path, tmp_path: Path) -> None:
    order = replace(load_order(files / "base.gguf", tmp_path), companions={"mmproj": files / "ear.gguf"})
    async with loaded(order) as model:
        plain, short, long = [await first_token(model, part) for part in ("what?", sound(0.5), sound(1.5))]
        assert short[0] > plain[0]
        assert short[1] != long[1]
        with pytest.raises(UnsupportedParameter, match="input_audio and text only"):
            await said(model, picture(4, 4))


async def test_a_draft_model_changes_nothing_of_what_is_said(files: Path, tmp_path: Path) -> None:
    async with loaded(load_order(files / "base.gguf", tmp_path)) as model:
        alone = await said(model, max_tokens=40)
    for draft in ("base.gguf", "other.gguf"):
        order = load_order(files / "base.gguf", tmp_path, draft_tokens=4)
        async with loaded(replace(order, companions={"draft": files / draft})) as model:
            assert await said(model, max_tokens=40) == alone


async def test_companions_that_do_not_fit_are_refused(files: Path, tmp_path: Path) -> None:
    order = load_order(files / "base.gguf", tmp_path)
    for companions, reason in (
        ({"draft": files / "bert.gguf"}, "another vocabulary"),
        ({"draft": files / "eye.gguf"}, "not a model but of kind 'mmproj'"),
        ({"mmproj": files / "other.gguf"}, "not a projector but of kind 'model'"),
    ):
        with pytest.raises(LoadFailed, match=reason):
            await LlamaCpp().load(replace(order, companions=companions))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("ear.gguf", "clip.audio.projector.stack_factor", 0),
        ("ear.gguf", "clip.audio.attention.head_count", 7),
        ("ear.gguf", "clip.audio.num_mel_bins", 2**31),
        ("eye.gguf", "clip.vision.attention.head_count", 0),
        ("eye.gguf", "clip.vision.image_size", 0),
        ("eye.gguf", "clip.vision.patch_size", 400),
    ],
)
async def test_a_projector_that_cannot_be_computed_with_is_refused(
    files: Path, tmp_path: Path, file: str, key: str, value: int
) -> None:
    spoilt = bytearray((files / file).read_bytes())
    at = spoilt.index(key.encode()) + len(key) + 4
    spoilt[at : at + 4] = value.to_bytes(4, "little")
    (tmp_path / "spoilt.gguf").write_bytes(spoilt)
    order = load_order(files / "base.gguf", tmp_path)
    with pytest.raises(LoadFailed, match=r"the projector 'spoilt\.gguf'"):
        await LlamaCpp().load(replace(order, companions={"mmproj": tmp_path / "spoilt.gguf"}))


def test_companions_and_adapters_count(files: Path, tmp_path: Path) -> None:
    order = load_order(files / "base.gguf", tmp_path)
    alone = LlamaCpp().estimate_memory(order)
    companions = {"mmproj": files / "eye.gguf", "draft": files / "other.gguf"}
    more = replace(order, companions=companions, adapters={"loud": files / "loud.gguf"})
    together = LlamaCpp().estimate_memory(more)
    added = [*companions.values(), files / "loud.gguf"]
    assert together.weights_bytes - alone.weights_bytes == sum(path.stat().st_size for path in added)
    assert together.working_bytes > alone.working_bytes


async def test_a_split_model_is_one(files: Path, tmp_path: Path) -> None:
    first = tiny_gguf.llama_model(tmp_path / "split.gguf", seed=9, split=8)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert len(parts) > 1
    order = load_order(first, tmp_path)
    assert LlamaCpp().estimate_memory(order).weights_bytes == sum(part.stat().st_size for part in parts)
    async with loaded(load_order(files / "other.gguf", tmp_path)) as model:
        expected = await said(model)
    async with loaded(order) as model:
        assert await said(model) == expected
    parts[-1].unlink()
    with pytest.raises(LoadFailed, match="not all are here"):
        await LlamaCpp().load(order)


async def test_prompts_outlive_a_load(files: Path, tmp_path: Path) -> None:
    order = replace(
        load_order(files / "base.gguf", tmp_path, keep_prompts_mb=1), cache=tmp_path / "cache" / "m"
    )
    question = {"prompt": "once upon a time " * 20, "logprobs": 1}
    async with loaded(order) as model:
        first = await completed(model, **question)
    (kept,) = (tmp_path / "cache" / "m").iterdir()
    async with loaded(order) as model:
        again = await completed(model, **question)
    details = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (first, again)]
    assert details == [0, first["usage"]["prompt_tokens"] - 1]
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    async with loaded(replace(order, options={**order.options, "context": 512})) as model:
        other = await completed(model, prompt="hi")
        assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert not kept.exists(), "those of other options are no use"


async def test_kept_prompts_that_are_spoilt_do_no_harm(files: Path, tmp_path: Path) -> None:
    order = replace(load_order(files / "base.gguf", tmp_path, keep_prompts_mb=1), cache=tmp_path / "cache")
    async with loaded(order) as model:
        await completed(model, prompt="once upon a time " * 20)
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:3000])
    async with loaded(order) as model:
        assert not kept.exists()
        assert (await completed(model, prompt="hi"))["usage"]["prompt_tokens"] == 2
    adapted = replace(order, adapters={"loud": files / "loud.gguf"})
    with pytest.raises(LoadFailed, match="keep_prompts_mb"):
        await LlamaCpp().load(adapted)


async def test_a_gap_is_filled_by_models_that_can(files: Path, tmp_path: Path) -> None:
    async with loaded(load_order(files / "base.gguf", tmp_path)) as model:
        filled = await completed(model, prompt="def add(", suffix="return", logprobs=1)
        assert filled["usage"]["prompt_tokens"] == len("def add(") + len("return") + 3
        assert (
            filled["choices"][0]["text"] != (await completed(model, prompt="def add("))["choices"][0]["text"]
        )
    async with loaded(load_order(files / "other.gguf", tmp_path)) as model:
        with pytest.raises(UnsupportedParameter, match="suffix"):
            await completed(model, prompt="def add(", suffix="return")


async def test_tokens_are_shown(files: Path, tmp_path: Path) -> None:
    async with loaded(load_order(files / "base.gguf", tmp_path)) as model:
        assert model.max_model_tokens == 1024
        tokens = await model.tokenize(TokenizeRequest(text="the é<|im_end|>"))
        assert tokens.texts == ["th", "e", " ", "\ufffd", "\ufffd", "<|im_end|>"]
        assert await model.detokenize(tokens.ids[:5]) == "the é"
        asked = await model.tokenize(TokenizeRequest(messages=QUESTION))
        assert "".join(asked.texts).endswith("what?<|im_end|>\n<|im_start|>assistant\n")
        bare = await model.tokenize(TokenizeRequest(messages=QUESTION, add_generation_prompt=False))
        assert "".join(bare.texts).endswith("what?<|im_end|>\n")
        tool = {"type": "function", "function": {"name": "clock", "parameters": {}}}
        described = await model.tokenize(TokenizeRequest(messages=QUESTION, tools=[tool]))
        assert "clock" in "".join(described.texts)
        for wrong in ([-1], [10**9]):
            with pytest.raises(InvalidRequest, match="no token of this model"):
                await model.detokenize(wrong)
        with pytest.raises(InvalidRequest, match="no token of this model") as caught:
            await completed(model, prompt=[5, 10**6], echo=True)
        assert caught.value.param == "prompt"


def picture(width: int, height: int) -> list[dict[str, Any]]:
    return picture_of(base64.b64encode(blank_png(width, height)).decode())


def picture_of(data: str) -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{data}"
    return [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]


def sound(seconds: float) -> list[dict[str, Any]]:
    samples = [int(9000 * math.sin(place / 20)) for place in range(int(16_000 * seconds))]
    data = struct.pack(f"<{len(samples)}h", *samples)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16) + b"data" + struct.pack("<I", len(data))
    audio = {"data": base64.b64encode(head + data).decode(), "format": "wav"}
    return [{"type": "text", "text": "what?"}, {"type": "input_audio", "input_audio": audio}]


PICTURES = (picture(60, 40), picture(9, 9))
