"""Whisper in transformers: random weights say what the library says, the catalog's say what was said."""

from __future__ import annotations

import json
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from ekiben.contract import (
    Ability,
    Engine,
    GivenUp,
    InvalidRequest,
    LoadFailed,
    ModelSpec,
    TranscribedPiece,
    TranscribeRequest,
    UnsupportedParameter,
    VoiceActivity,
    testing,
)
from ekiben_transformers.engine import Transformers
from tests.whisper_folder import convert, tiny

ENGINE: Engine = Transformers()
OPTIONS = {"dtype": "float32", "quantization": "none", "windows": 4}
RATE_HZ = 16_000


def order(folder: Path, scratch: Path) -> Any:
    variant = {"format": "safetensors", "engine": "transformers", "source": {"kind": "local", "path": "/x"}}
    spec = ModelSpec.model_validate(
        {"name": "ear", "family": "audio", "abilities": ["transcribe", "translate"], "variants": [variant]}
    )
    return testing.load_request(spec, folder, scratch=scratch, options=OPTIONS)


def noise(folder: Path, seconds: float, *, seed: int) -> Path:
    """A recording that nobody has heard before."""
    path = folder / f"noise-{seed}.wav"
    samples = np.random.default_rng(seed).normal(scale=3000, size=int(seconds * RATE_HZ)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return path


class Wanted:
    """A run that everybody waits for, until it has been asked often enough."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


def together(
    listener: Any, *requests: TranscribeRequest, run: Wanted | None = None
) -> list[TranscribedPiece]:
    """As the runtime's batcher does, with all of them in one batch."""
    items = [list(listener.items(request)) for request in requests]
    values = [item.value for of_one in items for item in of_one]
    results = iter(listener.compute(listener.prepare(values), run or Wanted()))
    return [
        listener.answer(request, [next(results) for _ in of_one])
        for request, of_one in zip(requests, items, strict=True)
    ]


@pytest.fixture(scope="module")
def folder(weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(weights("whisper-base"), tmp_path_factory.mktemp("tiny") / "whisper")


@pytest.fixture
async def listener(folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    loaded: Any = await ENGINE.load(order(folder, tmp_path))
    yield loaded.batching[Ability.TRANSCRIBE]
    await loaded.unload()


def by_library(folder: Path, path: Path) -> list[list[int]]:
    """The tokens of each segment, at temperature 0."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    extractor: Any = WhisperFeatureExtractor.from_pretrained(folder)
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    made = extractor(samples, sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        heard = model.eval().generate(
            made["input_features"],
            attention_mask=made["attention_mask"],
            language="en",
            task="transcribe",
            return_timestamps=True,
            return_segments=True,
            max_new_tokens=32,
        )
    return [one["tokens"].tolist() for one in heard["segments"][0]]


async def test_it_does_what_an_engine_must(folder: Path, tmp_path: Path) -> None:
    await testing.check_engine(ENGINE, order(folder, tmp_path))


async def test_it_hears_what_the_library_hears(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever others are heard at the same time. Random weights are never sure of anything."""
    monkeypatch.setattr("ekiben_transformers.hearing.listener.SCHEDULE", (0.0,))
    loaded: Any = await ENGINE.load(order(folder, tmp_path))
    clips = [noise(tmp_path, seconds, seed=seed) for seed, seconds in enumerate((3, 11))]
    requests = [TranscribeRequest(audio=clip, language="en") for clip in clips]
    for clip, piece in zip(clips, together(loaded.batching[Ability.TRANSCRIBE], *requests), strict=True):
        said = [list(segment.tokens) for segment in piece.segments]
        library = by_library(folder, clip)
        assert said == library[: len(said)] and said
    await loaded.unload()


def test_what_it_cannot_do_is_refused(listener: Any, tmp_path: Path) -> None:
    clip = noise(tmp_path, 1, seed=1)
    for request, param in (
        (TranscribeRequest(audio=clip, language="xx"), "language"),
        (TranscribeRequest(audio=clip, voice_activity=VoiceActivity()), "chunking_strategy"),
    ):
        with pytest.raises((InvalidRequest, UnsupportedParameter)) as refused:
            list(listener.items(request))
        assert refused.value.param == param


def test_what_nobody_waits_for_is_broken_off(listener: Any, tmp_path: Path) -> None:
    request = TranscribeRequest(audio=noise(tmp_path, 2, seed=2), language="en")
    run = Wanted(looks=4)
    with pytest.raises(GivenUp):
        together(listener, request, run=run)
    assert run.looks > -20, "it was not heard to its end"


async def test_what_does_not_hear_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["Wav2Vec2ForCTC"]}))
    with pytest.raises(LoadFailed, match="Wav2Vec2ForCTC does not hear here"):
        await ENGINE.load(order(other, tmp_path))


async def test_a_spoken_sentence(
    weights: Callable[[str], Path], spoken: bytes, sentence: str, tmp_path: Path
) -> None:
    """With the times of its words, in a language that it finds by itself."""
    clip = tmp_path / "spoken.wav"
    clip.write_bytes(spoken)
    loaded: Any = await ENGINE.load(order(convert(weights("whisper-base"), tmp_path / "base"), tmp_path))
    (heard,) = together(loaded.batching[Ability.TRANSCRIBE], TranscribeRequest(audio=clip, words=True))
    text = "".join(segment.text for segment in heard.segments)
    assert heard.language == "en"
    assert jiwer.wer(plain(sentence), plain(text)) == 0
    words = [word for segment in heard.segments for word in segment.words]
    assert plain("".join(word.word for word in words)) == plain(sentence)
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[-1] <= heard.duration_s
    await loaded.unload()


def plain(text: str) -> str:
    return " ".join("".join(sign for sign in text.lower() if sign.isalnum() or sign == " ").split())
