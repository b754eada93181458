"""Kokoro's way of speaking, with a network of a few nodes that the test makes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from ekiben.contract import InvalidRequest, LoadFailed, ModelSpec, SpeakRequest, testing
from ekiben_kokoro.engine import Kokoro, LoadedSpeaker
from ekiben_kokoro.pronunciation import respell

PHONEMES = "abdefhijklmnopstuvwzAIOWYæðŋɑɔəɛɜɡɪɹʃʊʌʒʤʧˈˌ .,!?;:"
NUMBERS = {sign: number for number, sign in enumerate(PHONEMES, start=1)}
LENGTHS = 510


def network(path: Path, *, tokens: str = "input_ids") -> None:
    """A tone for each phoneme: its number is the pitch, the style its loudness, the speed its damping."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 1, 100])
    flat = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
    last = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", [tokens], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["columns"]),
        helper.make_node("Expand", ["columns", "shape"], ["held"]),
        helper.make_node("Reshape", ["held", "flat"], ["line"]),
        helper.make_node("ReduceMean", ["style", "axis"], ["loudness"], keepdims=0),
        helper.make_node("Mul", ["line", "loudness"], ["loud"]),
        helper.make_node("Div", ["loud", "speed"], ["waveform"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tones",
        [
            helper.make_tensor_value_info(tokens, TensorProto.INT64, [1, None]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [None])],
        [shape, flat, last, axis],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))


def styles(seed: int) -> Any:
    """One for each length, of different means."""
    return np.random.default_rng(seed).uniform(0, 0.02, (LENGTHS, 256)).astype("<f4")


VOICES = {"af_sky": styles(1), "bm_joe": styles(2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network(tmp_path / "kokoro" / "onnx" / "model.onnx")
    (tmp_path / "kokoro" / "voices").mkdir()
    for name, values in VOICES.items():
        values.tofile(tmp_path / "kokoro" / "voices" / f"{name}.bin")
    (tmp_path / "kokoro" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": NUMBERS}}))
    return tmp_path / "kokoro"


def order(folder: Path, **options: Any) -> Any:
    spec = ModelSpec.model_validate(
        {
            "name": "kokoro",
            "family": "audio",
            "abilities": ["speak"],
            "variants": [
                {
                    "format": "kokoro",
                    "engine": "kokoro",
                    "source": {"kind": "local", "path": str(folder)},
                    "options": options,
                }
            ],
        }
    )
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return testing.load_request(spec, folder, scratch=scratch)


@pytest.fixture
async def speaker(folder: Path) -> AsyncIterator[LoadedSpeaker]:
    loaded = await Kokoro().load(order(folder))
    yield loaded
    await loaded.unload()


async def spoken(speaker: LoadedSpeaker, text: str, voice: str = "af_sky", speed: float = 1.0) -> list[bytes]:
    request = SpeakRequest(text=text, voice=voice, speed=speed)
    return [chunk.samples async for chunk in speaker.speak(request)]


async def test_it_does_what_an_engine_must(folder: Path) -> None:
    await testing.check_engine(Kokoro(), order(folder))


async def test_a_word_is_what_the_network_makes_of_its_phonemes(folder: Path, speaker: LoadedSpeaker) -> None:
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    for voice, signs in (("af_sky", "hˈWs."), ("bm_joe", "hˈWs.")):
        numbers = [NUMBERS[sign] for sign in signs]
        style = VOICES[voice][len(numbers)].reshape(1, 256)
        inputs = {"input_ids": [[0, *numbers, 0]], "style": style, "speed": np.array([2.0], np.float32)}
        (expected,) = session.run(None, inputs)
        (samples,) = await spoken(speaker, "House.", voice, speed=2.0)
        assert np.frombuffer(samples, np.int16) == pytest.approx(expected * 32767, abs=1)


async def test_sentences_come_one_by_one(speaker: LoadedSpeaker) -> None:
    assert len(await spoken(speaker, "One box. Two boxes! Are there three?")) == 3


async def test_a_sentence_without_end_is_cut(speaker: LoadedSpeaker) -> None:
    pieces = await spoken(speaker, "and so it went on, " * 60)
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= 2 * 100 * 202


async def test_what_cannot_be_said_is_refused(speaker: LoadedSpeaker) -> None:
    for text in ("...", "\ud800", "a\0b"):
        with pytest.raises(InvalidRequest) as refused:
            await spoken(speaker, text)
        assert refused.value.param == "input"


async def test_the_voices_of_an_archive_are_the_same(folder: Path) -> None:
    for file in (folder / "voices").iterdir():
        file.unlink()
    with (folder / "voices-v1.bin").open("wb") as archive:
        np.savez(
            archive, allow_pickle=False, **{name: v.reshape(LENGTHS, 1, 256) for name, v in VOICES.items()}
        )
    loaded = await Kokoro().load(order(folder, voice="bm_joe"))
    assert loaded.voices == ("bm_joe", "af_sky")
    await loaded.unload()


async def test_a_pickle_among_the_voices_is_never_opened(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    for file in (folder / "voices").iterdir():
        file.unlink()
    with (folder / "voices.bin").open("wb") as archive:
        np.savez(archive, af=np.array([Trap()], dtype=object))
    with pytest.raises(LoadFailed, match="is not an archive of voices"):
        await Kokoro().load(order(folder))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("voices/af_sky.bin", b"short", "is not a voice"),
        ("tokenizer.json", b"{}", "does not say which phoneme"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": -1}}}', "numbers that are none"),
        ("tokenizer.json", b"[" * 10_000, "cannot be read"),
        ("onnx/model.onnx", b"nonsense", "is not an ONNX model"),
    ],
)
async def test_what_is_broken_is_told(folder: Path, name: str, content: bytes, reason: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(LoadFailed, match=reason):
        await Kokoro().load(order(folder))


async def test_another_kind_of_network_is_told(folder: Path) -> None:
    network(folder / "onnx" / "model.onnx", tokens="pixels")
    with pytest.raises(LoadFailed, match="is no Kokoro network"):
        await Kokoro().load(order(folder))


async def test_a_voice_or_language_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(LoadFailed, match="this model has af_sky, bm_joe"):
        await Kokoro().load(order(folder, voice="xx"))
    with pytest.raises(LoadFailed, match="does not speak 'xx-nowhere'"):
        await Kokoro().load(order(folder, language="xx-nowhere"))


def test_english_is_written_as_the_model_has_it() -> None:
    assert "".join(respell("dʒˈoʊ tʃˈeɪndʒd", "en-us")) == "ʤˈO ʧˈAnʤd"
    assert "".join(respell("ɡˈəʊ", "en-gb-x-rp")) == "ɡˈQ"
    assert "".join(respell("dʒorno", "it")) == "dʒorno"
