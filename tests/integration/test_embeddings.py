"""Real vectors through the route: those of the library, however they are asked for."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from ekiben.catalog.specs import resolve_model
from ekiben.contract import (
    Ability,
    EmbedRequest,
    InvalidRequest,
    LoadFailed,
    TooManyTokens,
    UnsupportedParameter,
)
from ekiben.contract.threads import WorkerThread
from ekiben.plugins.discovery import discover
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.embedding.embeddings import ROUTES
from tests.replica_routes import Weights, client, load, load_folder

NAME = "all-minilm-l6-v2"
SPEC = resolve_model(NAME, plugins=discover())
TRAIN = ("the train leaves from platform three", "departures at track three", "boil the rice for ten minutes")


@pytest.fixture(scope="module")
def library(weights: Weights) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(weights(NAME)), device="cpu")


@pytest.fixture
async def loaded(weights: Weights, tmp_path: Path) -> AsyncIterator[Any]:
    _, loaded = await load(NAME, weights, tmp_path)
    yield loaded
    await loaded.unload()


@pytest.fixture
def embedder(loaded: Any) -> Any:
    return Fronts(loaded).able(Ability.EMBED)


@pytest.fixture
async def http(loaded: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client(SPEC, loaded, ROUTES) as http:
        yield http


async def post(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/embeddings", json={"model": NAME} | body)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def vectors(http: httpx.AsyncClient, given: Any, **body: Any) -> NDArray[np.float32]:
    data = (await post(http, input=given, **body))["data"]
    return np.array([item["embedding"] for item in data], dtype=np.float32)


async def test_similar_sentences_lie_closer(http: httpx.AsyncClient) -> None:
    train, track, rice = await vectors(http, list(TRAIN))
    assert train @ track > 0.4 > 0.2 > train @ rice


async def test_vectors_and_tokens_are_those_of_the_library(http: httpx.AsyncClient, library: Any) -> None:
    texts = [*TRAIN, "ÄÖÜ 漢字 🚆", " ", "[SEP] <|im_end|>", "long " * 1000]
    answer = await post(http, input=texts)
    got = np.array([item["embedding"] for item in answer["data"]])
    assert np.abs(got - library.encode(texts)).max() < 1e-4
    read = int(library.preprocess(texts)["attention_mask"].sum())
    assert answer["usage"] == {"prompt_tokens": read, "total_tokens": read}


async def test_base64_is_the_same_numbers(http: httpx.AsyncClient) -> None:
    floats = await vectors(http, list(TRAIN))
    answer = await post(http, input=list(TRAIN), encoding_format="base64")
    for row, item in zip(floats, answer["data"], strict=True):
        raw = base64.b64decode(item["embedding"])
        assert np.array(struct.unpack("<384f", raw), dtype=np.float32) == pytest.approx(row, abs=1e-6)


@pytest.mark.parametrize("special", [True, False])
async def test_tokens_give_the_vectors_of_their_text(
    http: httpx.AsyncClient, library: Any, special: bool
) -> None:
    tokens = [library.tokenizer(text, add_special_tokens=special)["input_ids"] for text in TRAIN]
    assert np.abs(await vectors(http, tokens) - await vectors(http, list(TRAIN))).max() < 1e-4
    assert np.abs(await vectors(http, tokens[0]) - await vectors(http, TRAIN[0])).max() < 1e-4


async def test_too_many_tokens_are_cut_like_a_text(http: httpx.AsyncClient, library: Any) -> None:
    text = "station " * 600
    tokens = library.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert np.abs(await vectors(http, tokens) - library.encode([text])).max() < 1e-4


async def test_many_inputs_come_back_in_order(http: httpx.AsyncClient, library: Any) -> None:
    texts = [f"train {n} " + "calls at every station " * (n * 7 % 11) for n in range(300)]
    assert np.abs(await vectors(http, texts) - library.encode(texts)).max() < 1e-4


async def test_requests_at_once_keep_their_own(embedder: Any, library: Any) -> None:
    texts = [f"passenger {n} " + "waits " * (n % 13) for n in range(64)]
    answers = await asyncio.gather(*(embedder.embed(EmbedRequest(inputs=[text])) for text in texts))
    got = np.concatenate([np.asarray(answer.vectors) for answer in answers])
    assert np.abs(got - library.encode(texts)).max() < 1e-4


async def test_texts_and_tokens_at_once(embedder: Any, library: Any) -> None:
    tokens = library.tokenizer(TRAIN[0])["input_ids"]
    requests = [EmbedRequest(inputs=[TRAIN[0]]), EmbedRequest(inputs=[tokens])] * 4
    answers = await asyncio.gather(*(embedder.embed(request) for request in requests))
    expected = library.encode([TRAIN[0]])
    assert all(np.abs(np.asarray(answer.vectors) - expected).max() < 1e-4 for answer in answers)


async def test_cancelling_ends_the_work_between_two_layers(loaded: Any) -> None:
    batching = loaded.batching[Ability.EMBED]
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    compute = batching.compute
    outcomes: list[str] = []

    def noted(prepared: Any, run: Any) -> Any:
        loop.call_soon_threadsafe(started.set)
        try:
            rows = compute(prepared, run)
        except Exception as error:
            outcomes.append(type(error).__name__)
            raise
        outcomes.append("done")
        return rows

    batching.compute = noted
    embedder = Fronts(loaded).able(Ability.EMBED)
    long = asyncio.create_task(embedder.embed(EmbedRequest(inputs=["stop and go " * 200] * 1000)))
    await started.wait()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    await embedder.embed(EmbedRequest(inputs=["next"]))
    assert outcomes == ["GivenUp", "done"]


async def test_each_text_is_tokenized_once(loaded: Any) -> None:
    texts = loaded.batching[Ability.EMBED]._reading._texts
    read: list[str] = []
    once = texts.read

    def noted(given: Any, *rest: Any, **how: Any) -> Any:
        read.extend(given)
        return once(given, *rest, **how)

    texts.read = noted
    await Fronts(loaded).able(Ability.EMBED).embed(EmbedRequest(inputs=TRAIN))
    assert read == list(TRAIN)


@pytest.mark.parametrize(("truncate", "max_tokens"), [(True, None), (None, 12), (True, 12)])
async def test_a_request_says_where_texts_end(
    embedder: Any, library: Any, truncate: bool | None, max_tokens: int | None
) -> None:
    request = EmbedRequest(inputs=["station " * 600], truncate=truncate, max_tokens=max_tokens)
    answer = await embedder.embed(request)
    limit = max_tokens or library.max_seq_length
    assert answer.prompt_tokens == limit
    expected = library.encode(["station " * (limit - 2)])
    assert np.abs(np.asarray(answer.vectors) - expected).max() < 1e-4


async def test_a_request_has_long_texts_refused(embedder: Any) -> None:
    fits = await embedder.embed(EmbedRequest(inputs=["station"], truncate=False))
    assert fits.prompt_tokens == 3
    for inputs in (["fine", "station " * 600], [[5], [5] * 600]):
        with pytest.raises(InvalidRequest) as caught:
            await embedder.embed(EmbedRequest(inputs=inputs, truncate=False))
        assert caught.value.error_code == "context_length_exceeded"
        assert "entry 1" in caught.value.message


async def test_many_megabytes_are_read_portion_by_portion(loaded: Any) -> None:
    batching = loaded.batching[Ability.EMBED]
    items = batching.items(EmbedRequest(inputs=["station " * 30_000] * 16))
    assert not isinstance(items, list)
    steps = list(items)
    assert steps[:2] == [None, None], "other requests have their turn on the thread"
    assert [item.length for item in steps if item] == [256] * 16


@pytest.mark.parametrize("inputs", [["station " * 260] * 1172, [[5] * 300] * 1172])
async def test_more_tokens_than_a_request_may_have(loaded: Any, inputs: list[Any]) -> None:
    """Counted as they are read: of each no more than the model's 256."""
    front = Fronts(loaded).able(Ability.EMBED)
    with pytest.raises(TooManyTokens) as caught:
        await front.embed(EmbedRequest(inputs=inputs))
    assert caught.value.error_code == "max_tokens_per_request"
    batching = loaded.batching[Ability.EMBED]
    fits = filter(None, batching.items(EmbedRequest(inputs=inputs[:1171])))
    assert sum(item.length for item in fits) == 1171 * 256


async def test_too_many_tokens_have_the_error_of_openai(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embeddings", json={"model": NAME, "input": [[5] * 300] * 1172})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (
        400,
        "max_tokens_per_request",
        "max_tokens_per_request",
        None,
    )


@pytest.mark.parametrize("token", [30522, 10**12])
async def test_unknown_tokens_are_refused(http: httpx.AsyncClient, token: int) -> None:
    answer = await http.post("/v1/embeddings", json={"model": NAME, "input": [5, token]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "input")
    assert str(token) in error["message"]


async def test_dimensions_of_a_model_that_was_not_trained_for_them(embedder: Any) -> None:
    full = await embedder.embed(EmbedRequest(inputs=["x"], dimensions=384))
    assert full.vectors.shape == (1, 384)
    with pytest.raises(UnsupportedParameter) as caught:
        await embedder.embed(EmbedRequest(inputs=["x"], dimensions=64))
    assert caught.value.param == "dimensions"
    with pytest.raises(InvalidRequest):
        await embedder.embed(EmbedRequest(inputs=["x"], dimensions=385))


async def test_options(weights: Weights, tmp_path: Path, library: Any) -> None:
    _, loaded = await load(
        NAME, weights, tmp_path, matryoshka_dimensions=[64], max_length=32, truncate=False, dtype="bfloat16"
    )
    embedder = Fronts(loaded).able(Ability.EMBED)
    short = await embedder.embed(EmbedRequest(inputs=list(TRAIN), dimensions=64))
    expected = library.encode(list(TRAIN), truncate_dim=64, normalize_embeddings=True)
    assert np.abs(np.asarray(short.vectors) - expected).max() < 0.02
    assert np.linalg.norm(np.asarray(short.vectors), axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    for too_long in ("long " * 40, [5] * 31):
        with pytest.raises(InvalidRequest) as caught:
            await embedder.embed(
                EmbedRequest(inputs=["fine" if isinstance(too_long, str) else [5], too_long])
            )
        assert (caught.value.param, caught.value.error_code) == ("input", "context_length_exceeded")
    await loaded.unload()


class Canary:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(weights: Weights, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(weights(NAME), copy)
    return copy


async def refused(folder: Path, scratch: Path, **options: Any) -> str:
    with pytest.raises(LoadFailed) as caught:
        await load_folder(SPEC, folder, scratch, **options)
    assert str(folder) not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.safetensors"])
async def test_pickles_are_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    import pickle

    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    message = await refused(folder, tmp_path)
    assert "safetensors" in message
    assert not canary.exists()


async def test_a_module_of_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Own: pass\n"
    (folder / "own.py").write_text(code)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own.Own"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert "code of its own" in await refused(folder, tmp_path)
    assert not canary.exists()


async def test_a_config_that_asks_for_own_code_is_never_followed(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    (folder / "modeling_own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "modeling_own.C", "AutoModel": "modeling_own.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    await refused(folder, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x00" * 7,
        (2**63).to_bytes(8, "little"),
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (9).to_bytes(8, "little") + b'{"a": 17}',
        (55).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
    ],
)
async def test_broken_safetensors_are_refused(folder: Path, tmp_path: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(header)
    await refused(folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", "{"),
        ("modules.json", "{}"),
        ("modules.json", "[1]"),
        ("modules.json", '[{"type": "sentence_transformers.models.Pooling", "path": "../../etc"}]'),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "bert", "hidden_size": "wide"}'),
        ("tokenizer.json", "{"),
    ],
)
async def test_broken_configs_are_refused(folder: Path, tmp_path: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    if name == "tokenizer.json":
        (folder / "vocab.txt").unlink(missing_ok=True)
    await refused(folder, tmp_path)


async def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    assert "not a folder" in await refused(folder / "config.json", tmp_path)
    (empty := tmp_path / "empty").mkdir()
    assert "modules.json" in await refused(empty, tmp_path)
    assert "512 positions" in await refused(folder, tmp_path, max_length=9999)


async def test_embedder_that_slept_answers_as_before(loaded: Any) -> None:
    """Where there is no GPU, from the host to the host: what is left out is the copy alone."""
    from ekiben_sentence_transformers.loaded import SleepyEncoder

    assert not hasattr(loaded, "sleep"), "on the host it would save nothing"
    request = EmbedRequest(inputs=TRAIN)
    before = await Fronts(loaded).able(Ability.EMBED).embed(request)
    batching = loaded.batching[Ability.EMBED]
    sleepy = SleepyEncoder(
        batching._model, Ability.EMBED, batching, device="cpu", worker=WorkerThread("sleepy")
    )
    await sleepy.sleep()
    await sleepy.wake()
    after = await Fronts(sleepy).able(Ability.EMBED).embed(request)
    assert np.array_equal(before.vectors, after.vectors)
    await sleepy.unload()
