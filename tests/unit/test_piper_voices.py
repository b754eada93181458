"""Voices of several speakers, and sentences that are too long for one breath."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from piper import PhonemeType, PiperConfig, PiperVoice

from ekiben.contract import InvalidRequest, LoadFailed, SpeakRequest
from ekiben.contract.speech import split
from ekiben_piper.voice import Voice, VoiceFiles, load


class Session:
    """Stands in for the network: remembers what it was asked, answers with as many samples as phonemes."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        self.asked.append(inputs)
        return [np.ones((1, 1, inputs["input"].shape[1]), np.float32)]


def voice(
    *, speakers: dict[str, int] | None = None, count: int = 1, default: int = 0
) -> tuple[Voice, Session]:
    config = PiperConfig(
        num_symbols=40,
        num_speakers=count,
        sample_rate=16_000,
        espeak_voice="en-us",
        phoneme_id_map={symbol: [number] for number, symbol in enumerate("_^$ .,abcdefghijklmnopqrstuvwxyz")},
        phoneme_type=PhonemeType.TEXT,
        speaker_id_map=speakers or {},
        default_speaker_id=default,
    )
    session: Any = Session()
    return Voice(PiperVoice(session=session, config=config), name="anna"), session


def test_one_speaker_is_called_like_the_voice() -> None:
    assert voice()[0].names == ("anna",)


def test_several_speakers_come_with_the_default_one_first() -> None:
    assert voice(speakers={"x": 0, "y": 1, "z": 2}, count=3, default=1)[0].names == ("y", "x", "z")
    assert voice(count=3)[0].names == ("0", "1", "2")


def test_the_speaker_and_the_speed_reach_the_network() -> None:
    speaker, session = voice(speakers={"x": 0, "y": 1}, count=2)
    list(speaker.speak(SpeakRequest(text="hello", voice="y", speed=2.0)))
    assert session.asked[0]["sid"].tolist() == [1]
    assert session.asked[0]["scales"][1] == pytest.approx(0.5)


def test_long_texts_are_spoken_in_pieces() -> None:
    speaker, session = voice()
    list(speaker.speak(SpeakRequest(text="word " * 800, voice="anna")))
    assert len(session.asked) >= 20
    assert max(asked["input"].shape[1] for asked in session.asked) < 410


@pytest.mark.parametrize("text", ["", " ", "...", "漢字"])
def test_nothing_to_say(text: str) -> None:
    with pytest.raises(InvalidRequest):
        list(voice()[0].speak(SpeakRequest(text=text, voice="anna")))


@pytest.mark.parametrize(
    ("phonemes", "expected"),
    [
        ("short", ["short"]),
        ("one two, six ten", ["one two,", " six ten"]),
        ("one two six ten", ["one two ", "six ten"]),
        ("aaaaaaaaaaaaaaaaaaaaaaa", ["aaaaaaaaaa", "aaaaaaaaaa", "aaa"]),
        ("", []),
    ],
)
def test_where_a_sentence_is_cut(phonemes: str, expected: list[str]) -> None:
    assert ["".join(piece) for piece in split(list(phonemes), limit=10)] == expected


def test_folders_that_are_no_voice(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"has 0 \.onnx files"):
        VoiceFiles.find(tmp_path)
    model = tmp_path / "a.onnx"
    model.write_bytes(b"no network")
    with pytest.raises(LoadFailed, match=r"a\.onnx\.json is missing"):
        VoiceFiles.find(model)
    config = tmp_path / "a.onnx.json"
    for text in ("{", "[]", "{}", '{"audio": 3}'):
        config.write_text(text)
        with pytest.raises(LoadFailed, match="not the configuration"):
            load(VoiceFiles.find(tmp_path), threads=1)
    table: dict[str, Any] = {"num_symbols": 1, "num_speakers": 1, "audio": {"sample_rate": 16_000}}
    table |= {"espeak": {"voice": "en-us"}, "phoneme_id_map": {}}
    config.write_text(json.dumps(table))
    with pytest.raises(LoadFailed, match=r"a\.onnx cannot be loaded"):
        load(VoiceFiles.find(tmp_path), threads=1)
    config.write_text(json.dumps(table | {"phoneme_type": "pinyin"}))
    with pytest.raises(LoadFailed, match="pinyin"):
        load(VoiceFiles.find(tmp_path), threads=1)
    (tmp_path / "b.onnx").touch()
    with pytest.raises(LoadFailed, match=r"has 2 \.onnx files"):
        VoiceFiles.find(tmp_path)
