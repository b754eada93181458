"""Whisper as a folder of transformers: added by hand, then asked through the unmodified SDK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jiwer
import pytest

from tests.command_line import CommandLine
from tests.running import Platform
from tests.whisper_folder import convert

SPOKEN = "Good morning, and welcome to the railway station."


@pytest.fixture(scope="module")
def recording(platform: Platform, weights: Callable[[str], Path], tmp_path_factory: Any) -> tuple[str, bytes]:
    """And the model that is to hear it."""
    folder = convert(weights("whisper-base"), tmp_path_factory.mktemp("ear") / "whisper")
    added = CommandLine(platform.home)("model", "add", str(folder), "--name", "ear")
    assert added.returncode == 0, added.stderr
    speech: Any = platform.client.audio.speech
    spoken = speech.create(model="piper-en-us-joe", voice="alloy", input=SPOKEN, response_format="wav")
    return ("spoken.wav", spoken.content)


def test_it_hears_with_the_times_of_words(platform: Platform, recording: tuple[str, bytes]) -> None:
    heard = platform.client.audio.transcriptions.create(
        model="ear",
        file=recording,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (heard.language, wrong(heard.text)) == ("english", 0)
    assert heard.words and heard.segments
    assert wrong(" ".join(word.word for word in heard.words)) == 0
    assert heard.words[-1].end <= heard.duration


def test_it_streams_and_translates(platform: Platform, recording: tuple[str, bytes]) -> None:
    events = list(platform.client.audio.transcriptions.create(model="ear", file=recording, stream=True))
    assert [event.type for event in events[-1:]] == ["transcript.text.done"]
    assert wrong(events[-1].text) == 0  # type: ignore[union-attr]
    translated = post(platform, "translations", recording)
    assert wrong(translated.json()["text"]) == 0


def test_what_it_cannot_do_is_refused_by_name(platform: Platform, recording: tuple[str, bytes]) -> None:
    answer = post(platform, "transcriptions", recording, chunking_strategy='{"type": "server_vad"}')
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chunking_strategy")


def post(platform: Platform, route: str, recording: tuple[str, bytes], **form: str) -> httpx.Response:
    url = f"{platform.url}/v1/audio/{route}"
    return httpx.post(url, data={"model": "ear", **form}, files={"file": recording}, timeout=120)


def wrong(text: str) -> float:
    """The part of the words that is."""
    return float(jiwer.wer(plain(SPOKEN), plain(text)))


def plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum() or sign == " ").strip()
