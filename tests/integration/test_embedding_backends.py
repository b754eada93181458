"""Vectors and scores by ONNX Runtime and OpenVINO: those of the library on torch, from exports made once."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from ekiben.contract import (
    Ability,
    EmbedRequest,
    Family,
    GivenUp,
    LoadFailed,
    ModelSpec,
    ModerateRequest,
    RerankRequest,
    SourceSpec,
    Variant,
)
from ekiben.runtime.batching.fronts import Fronts
from tests.replica_routes import Weights, load_folder
from tests.tiny_encoders import bert_folder, classifier_folder, clip_folder, colbert_folder

TEXTS = ["departures at nine", "soup", "the train leaves from platform three, " * 5, "rice, rice, rice"]
QUERY = "when does the train go?"


def spec(ability: Ability) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        family=Family.EMBEDDING,
        abilities=frozenset({ability}),
        variants=(
            Variant(format="safetensors", source=SourceSpec(kind="local"), engine="sentence_transformers"),
        ),
    )


async def vectors(folder: Path, scratch: Path, **options: Any) -> Any:
    """Of `TEXTS`, in batches of two."""
    cache = options.pop("cache", None)
    options = {"batch_size": 2} | options
    loaded = await load_folder(spec(Ability.EMBED), folder, scratch, cache=cache, **options)
    embedded = await Fronts(loaded).able(Ability.EMBED).embed(EmbedRequest(inputs=TEXTS))
    await loaded.unload()
    return np.asarray(embedded.vectors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tests with `folder`, so that it is exported once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
async def test_vectors_are_those_of_torch(
    folder: Path, cache: Path, tmp_path: Path, expected: Any, backend: str
) -> None:
    assert np.abs(await vectors(folder, tmp_path, cache=cache, backend=backend) - expected).max() < 1e-4
    [export] = (cache / "exports").iterdir()
    before = (export / "model.onnx").stat()
    assert np.abs(await vectors(folder, tmp_path, cache=cache, backend=backend) - expected).max() < 1e-4
    after = (export / "model.onnx").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "made once"


async def test_int8_is_made_of_the_export(folder: Path, cache: Path, tmp_path: Path, expected: Any) -> None:
    got = await vectors(folder, tmp_path, cache=cache, backend="onnx", dtype="int8")
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.95
    assert np.abs(got - expected).max() > 1e-4, "in int8"
    names = sorted(path.name for path in (cache / "exports").iterdir())
    assert len(names) == 2
    assert names[1] == f"{names[0]}-int8"


@pytest.mark.parametrize(
    ("backend", "place", "file"),
    [("onnx", "onnx", "model.onnx"), ("openvino", "openvino", "openvino_model.xml")],
)
async def test_an_export_in_the_folder_is_taken(
    folder: Path, cache: Path, tmp_path: Path, expected: Any, backend: str, place: str, file: str
) -> None:
    import openvino  # type: ignore[import-untyped]

    await vectors(folder, tmp_path, cache=cache, backend=backend)
    export = next(path for path in (cache / "exports").iterdir() if "int8" not in path.name)
    brought = tmp_path / "brought"
    shutil.copytree(folder, brought)
    if backend == "onnx":
        shutil.copytree(export, brought / place)
    else:
        (brought / place).mkdir()
        openvino.save_model(
            openvino.Core().read_model(export / "model.onnx"), brought / place / file, compress_to_fp16=False
        )
    got = await vectors(brought, tmp_path, cache=tmp_path / "untouched", backend=backend)
    assert np.abs(got - expected).max() < 1e-4
    assert not (tmp_path / "untouched").exists()
    (brought / place / file).write_bytes(b"no network")
    with pytest.raises(LoadFailed):
        await vectors(brought, tmp_path, backend=backend)


@pytest.mark.slow
async def test_other_weights_have_an_export_of_their_own(
    folder: Path, cache: Path, tmp_path: Path, expected: Any
) -> None:
    from safetensors.numpy import load_file, save_file

    await vectors(folder, tmp_path, cache=cache, backend="onnx")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    halved = {name: values / 2 for name, values in load_file(other / "model.safetensors").items()}
    save_file(halved, other / "model.safetensors", {"format": "pt"})
    got = await vectors(other, tmp_path, cache=cache, backend="onnx")
    assert np.abs(got - expected).max() > 0.01


async def test_what_a_backend_needs_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    lacking = {"openvino", "onnxscript"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in lacking else real(name, *more)
    )
    with pytest.raises(LoadFailed, match="pip install openvino"):
        await vectors(folder, tmp_path, backend="openvino")
    with pytest.raises(LoadFailed, match="pip install onnxscript"):
        await vectors(folder, tmp_path, backend="onnx")


@pytest.mark.parametrize(("backend", "dtype"), [("onnx", "bfloat16"), ("openvino", "int8")])
async def test_what_a_backend_does_not_compute_in(
    folder: Path, tmp_path: Path, backend: str, dtype: str
) -> None:
    with pytest.raises(LoadFailed, match=f"backend: {backend} has no dtype: {dtype}"):
        await vectors(folder, tmp_path, backend=backend, dtype=dtype)


async def test_models_of_pictures_stay_with_torch(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="leave it out"):
        await vectors(clip_folder(tmp_path), tmp_path, backend="onnx")


async def test_scores_are_those_of_torch(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "judge", labels=("relevance",))
    asked = RerankRequest(query=QUERY, documents=TEXTS)
    scores = []
    for backend in ("torch", "onnx", "openvino"):
        loaded = await load_folder(
            spec(Ability.RERANK), folder, tmp_path, cache=tmp_path / "cache", backend=backend
        )
        ranked = await Fronts(loaded).able(Ability.RERANK).rerank(asked)
        scores.append(np.asarray(ranked.scores))
        await loaded.unload()
    assert np.abs(scores[1] - scores[0]).max() < 1e-4
    assert np.abs(scores[2] - scores[0]).max() < 1e-4


@pytest.mark.slow
async def test_late_interaction_on_another_backend(tmp_path: Path) -> None:
    folder = colbert_folder(tmp_path)
    asked = RerankRequest(query=QUERY, documents=TEXTS)
    scores = []
    for backend in ("torch", "onnx"):
        loaded = await load_folder(spec(Ability.RERANK), folder, tmp_path, backend=backend)
        ranked = await Fronts(loaded).able(Ability.RERANK).rerank(asked)
        scores.append(np.asarray(ranked.scores))
        await loaded.unload()
    assert np.abs(scores[1] - scores[0]).max() < 1e-4 * np.abs(scores[0]).max()


@pytest.mark.slow
async def test_judging_texts_on_another_backend(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "classifier", labels=("toxic", "threat", "ok"))
    judged = []
    for backend in ("torch", "onnx"):
        loaded = await load_folder(spec(Ability.MODERATE), folder, tmp_path, backend=backend)
        answer = await Fronts(loaded).able(Ability.MODERATE).moderate(ModerateRequest(texts=TEXTS))
        judged.append([sorted(text.scores.values()) for text in answer.texts])
        await loaded.unload()
    assert np.abs(np.asarray(judged[1]) - np.asarray(judged[0])).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
async def test_real_vectors_are_those_of_torch(weights: Weights, tmp_path: Path, backend: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = weights("all-minilm-l6-v2")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(await vectors(folder, tmp_path, backend=backend) - expected).max() < 1e-4


def long_network(path: Path) -> Path:
    """Multiplies matrices for a second or more."""
    width, steps = 512, 400
    nodes = [helper.make_node("Cast", ["input_ids"], ["x0"], to=TensorProto.FLOAT)]
    for step in range(steps):
        nodes.append(helper.make_node("MatMul", [f"x{step}", "identity"], [f"y{step}"]))
        nodes.append(helper.make_node("Sin", [f"y{step}"], [f"x{step + 1}"]))
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(f"x{steps}", TensorProto.FLOAT, ["batch", "length"])],
        [numpy_helper.from_array(np.eye(width, dtype=np.float32), "identity")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("name", ["OnnxGraph", "OpenVinoGraph"])
def test_a_batch_that_nobody_waits_for_is_stopped(tmp_path: Path, name: str) -> None:
    from ekiben_sentence_transformers import graphs

    make: Callable[..., graphs.Graph] = getattr(graphs, name)
    graph = make(long_network(tmp_path / "long.onnx"), threads=1)
    with pytest.raises(GivenUp):
        graph.run({"input_ids": np.ones((1024, 512), dtype=np.int64)}, lambda: False)
    again = graph.run({"input_ids": np.zeros((2, 512), dtype=np.int64)}, lambda: True)
    assert again.shape == (2, 512)
    assert not again.any(), "it computes what it is asked next"
