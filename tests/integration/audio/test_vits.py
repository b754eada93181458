"""A voice of transformers, of a few layers and random weights: the engine says what the library says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VitsConfig, VitsModel, VitsTokenizer

from ekiben.contract import Engine, InvalidRequest, LoadFailed, ModelSpec, SpeakRequest, testing
from ekiben_transformers.engine import Transformers

LETTERS = "_ abcdefghijklmnopqrstuvwxyz'-"
SIZES: dict[str, Any] = {
    "vocab_size": len(LETTERS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 16,
    "flow_size": 16,
    "spectrogram_bins": 9,
    "upsample_initial_channel": 16,
    "upsample_rates": [8, 4],
    "upsample_kernel_sizes": [16, 8],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "depth_separable_channels": 2,
    "depth_separable_num_layers": 1,
    "duration_predictor_num_flows": 2,
    "duration_predictor_filter_channels": 16,
    "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 1,
    "posterior_encoder_num_wavenet_layers": 1,
    "wavenet_kernel_size": 3,
    "use_stochastic_duration_prediction": False,
    "noise_scale": 0.0,
    "sampling_rate": 16_000,
}


def make(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "letters.json"
    vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    tokenizer = VitsTokenizer(str(vocabulary), pad_token="_", unk_token="_", phonemize=False, is_uroman=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    model = VitsModel(VitsConfig(**(SIZES | config)))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("vits") / "voice")


def order(folder: Path, scratch: Path) -> Any:
    spec = ModelSpec.model_validate(
        {
            "name": "voice",
            "family": "audio",
            "abilities": ["speak"],
            "variants": [
                {
                    "format": "safetensors",
                    "engine": "transformers",
                    "source": {"kind": "local", "path": str(folder)},
                }
            ],
        }
    )
    return testing.load_request(spec, folder, scratch=scratch)


ENGINE: Engine = Transformers()


@pytest.fixture
async def voice(folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    loaded = await ENGINE.load(order(folder, tmp_path))
    yield loaded
    await loaded.unload()


async def spoken(voice: Any, text: str, *, name: str = "voice", speed: float = 1.0) -> list[Any]:
    request = SpeakRequest(text=text, voice=name, speed=speed)
    return [np.frombuffer(chunk.samples, np.int16) async for chunk in voice.speak(request)]


def by_library(folder: Path, text: str, *, speed: float = 1.0, speaker: int | None = None) -> Any:
    tokenizer = VitsTokenizer.from_pretrained(folder)
    model: Any = VitsModel.from_pretrained(folder)
    with torch.inference_mode():
        made = model(**tokenizer(text, return_tensors="pt"), speaking_rate=speed, speaker_id=speaker)
    return np.clip(made.waveform[0].numpy(), -1, 1) * 32767


async def test_it_does_what_an_engine_must(folder: Path, tmp_path: Path) -> None:
    await testing.check_engine(ENGINE, order(folder, tmp_path))


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
async def test_it_says_what_the_library_says(voice: Any, folder: Path, speed: float) -> None:
    (samples,) = await spoken(voice, "The train is late.", speed=speed)
    assert samples == pytest.approx(by_library(folder, "The train is late.", speed=speed), abs=1)


async def test_sentences_come_one_by_one(voice: Any, folder: Path) -> None:
    pieces = await spoken(voice, "One box. Two boxes! Are there three?\nYes")
    assert len(pieces) == 4
    assert pieces[1] == pytest.approx(by_library(folder, "Two boxes!"), abs=1)


async def test_a_sentence_without_end_is_cut(voice: Any) -> None:
    assert len(await spoken(voice, "and so it went on, " * 40)) >= 4


@pytest.mark.parametrize("text", ["...", "42", "\ud800"])
async def test_what_cannot_be_said_is_refused(voice: Any, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await spoken(voice, text)
    assert refused.value.param == "input"


async def test_several_speakers_are_numbered(tmp_path: Path) -> None:
    folder = make(tmp_path / "many", num_speakers=3, speaker_embedding_size=8)
    voice: Any = await ENGINE.load(order(folder, tmp_path))
    assert voice.voices == ("0", "1", "2")
    said = [(await spoken(voice, "Hello.", name=name))[0] for name in voice.voices]
    assert said[2] == pytest.approx(by_library(folder, "Hello.", speaker=2), abs=1)
    assert not np.array_equal(said[0], said[2])
    await voice.unload()


async def test_what_does_not_speak_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BarkModel"]}))
    with pytest.raises(LoadFailed, match="BarkModel does not speak here"):
        await ENGINE.load(order(folder, tmp_path))


async def test_phonemes_need_their_package(tmp_path: Path) -> None:
    folder = make(tmp_path / "phonemes")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"phonemize": True}))
    with pytest.raises(LoadFailed, match="pip install phonemizer"):
        await ENGINE.load(order(folder, tmp_path))
