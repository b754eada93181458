"""Speech and transcription with the real models: what one says, the other writes down."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
import wave
from typing import Any

import av
import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)


def words(text: str) -> list[str]:
    """Without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def seconds_of(audio: bytes) -> float:
    with av.open(io.BytesIO(audio), "r") as container:
        frames = list(container.decode(audio=0))
    return float(sum(frame.samples for frame in frames) / frames[0].sample_rate)


async def test_a_spoken_sentence_is_transcribed_word_for_word(
    whisper: Any, spoken: bytes, sentence: str
) -> None:
    reply = await whisper.transcribe(spoken)
    assert reply.status == 200
    answer = Transcription.model_validate(reply.json(), strict=True)
    assert words(answer.text) == words(sentence)
    assert answer.usage is not None and answer.usage.type == "duration"


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_every_speech_format_says_the_same(
    voice: Any, whisper: Any, sentence: str, audio_format: str
) -> None:
    reply = await voice.speech(input=f"{sentence} {sentence}", voice="alloy", response_format=audio_format)
    assert reply.status == 200
    assert len(reply.chunks) > 3, "it is sent while it is made"
    audio = reply.body
    if audio_format == "pcm":
        file = io.BytesIO()
        with wave.open(file, "wb") as wav:
            wav.setparams((1, 2, 24_000, 0, "NONE", ""))
            wav.writeframes(audio)
        audio = file.getvalue()
    assert words((await whisper.transcribe(audio)).json()["text"]) == words(f"{sentence} {sentence}")


async def test_one_sentence_as_wav_has_its_length_in_the_header(spoken: bytes) -> None:
    with wave.open(io.BytesIO(spoken)) as wav:
        assert wav.getnframes() * 2 == len(spoken) - 44
        assert wav.getnframes() / wav.getframerate() == pytest.approx(seconds_of(spoken), abs=0.01)


async def test_speed_changes_the_duration(voice: Any, sentence: str) -> None:
    fast = await voice.speech(input=sentence, voice="default", speed=2, response_format="wav")
    slow = await voice.speech(input=sentence, voice="default", speed=0.5, response_format="wav")
    assert 2 < seconds_of(slow.body) / seconds_of(fast.body) < 6


async def test_speech_as_events(voice: Any) -> None:
    reply = await voice.speech(input="Hello there.", voice="default", stream_format="sse")
    assert reply.headers["content-type"].startswith("text/event-stream")
    *deltas, done = reply.events()
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert done["type"] == "speech.audio.done" and done["usage"]["input_tokens"] == len("Hello there.")
    assert seconds_of(audio) > 0.4


async def test_a_long_text_without_a_full_stop_is_spoken_in_bounded_pieces(voice: Any) -> None:
    reply = await voice.speech(input="one more word " * 60, voice="default", response_format="pcm")
    assert reply.status == 200
    assert len(reply.body) / 48_000 > 20
    assert max(map(len, reply.chunks)) < 48_000


@pytest.mark.parametrize("text", ["...", "\ud800", "a\x00b", "\u200b\u200b"])
async def test_text_that_cannot_be_spoken_is_refused(voice: Any, text: str) -> None:
    reply = await voice.speech(input=text, voice="default")
    assert (reply.status, reply.error["param"]) == (400, "input")


async def test_an_unknown_voice_is_refused_with_the_known_ones(voice: Any) -> None:
    reply = await voice.speech(input="Hello.", voice="nobody")
    assert (reply.status, reply.error["param"]) == (400, "voice")
    assert "en_US-joe-medium" in reply.error["message"]
    assert (await voice.speech(input="Hello.", voice={"id": "en_US-joe-medium"})).status == 200


async def test_verbose_json_has_words_and_segments_in_order(
    whisper: Any, spoken: bytes, sentence: str
) -> None:
    reply = await whisper.transcribe(
        spoken, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    body = reply.json()
    answer = TranscriptionVerbose.model_validate(body)
    assert (body["task"], answer.language) == ("transcribe", "english")
    assert answer.words is not None and answer.segments is not None
    assert [word.word.lower().strip(".,") for word in answer.words] == words(sentence)
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= answer.duration
    assert answer.segments[-1].end <= answer.duration
    assert set(body["segments"][0]) == {
        *("id", "seek", "start", "end", "text", "tokens", "temperature"),
        *("avg_logprob", "compression_ratio", "no_speech_prob"),
    }


async def test_verbose_json_has_what_was_asked_for_and_no_more(whisper: Any, spoken: bytes) -> None:
    plain = (await whisper.transcribe(spoken, response_format="verbose_json")).json()
    assert "segments" in plain and "words" not in plain
    only_words = await whisper.transcribe(
        spoken, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert "words" in only_words.json() and "segments" not in only_words.json()


async def test_plain_text_and_subtitles(whisper: Any, spoken: bytes, sentence: str) -> None:
    text = await whisper.transcribe(spoken, response_format="text")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert words(text.body.decode()) == words(sentence)
    srt = (await whisper.transcribe(spoken, response_format="srt")).body.decode()
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n\S", srt)
    vtt = (await whisper.transcribe(spoken, response_format="vtt")).body.decode()
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\n\S", vtt)


async def test_a_streamed_transcript_adds_up(whisper: Any, spoken: bytes, sentence: str) -> None:
    *deltas, done = (await whisper.transcribe(spoken, stream="true")).events()
    text = "".join(TranscriptionTextDeltaEvent.model_validate(delta).delta for delta in deltas)
    assert TranscriptionTextDoneEvent.model_validate(done).text == text
    assert words(text) == words(sentence)


async def test_translation_of_english_is_english(whisper: Any, spoken: bytes, sentence: str) -> None:
    reply = await whisper.transcribe(spoken, path="translations", response_format="verbose_json")
    assert (reply.json()["task"], reply.json()["language"]) == ("translate", "english")
    assert words(reply.json()["text"]) == words(sentence)


async def test_language_prompt_and_temperature_are_taken(whisper: Any, spoken: bytes, sentence: str) -> None:
    reply = await whisper.transcribe(
        spoken, language="en", prompt="<|endoftext|><|de|> A fox, a dog.", temperature="0"
    )
    assert words(reply.json()["text"]) == words(sentence)
    unknown = await whisper.transcribe(spoken, language="xx")
    assert (unknown.status, unknown.error["param"]) == (400, "language")


async def test_simultaneous_requests_are_all_answered(whisper: Any, spoken: bytes, sentence: str) -> None:
    replies = await asyncio.gather(*(whisper.transcribe(spoken) for _ in range(4)))
    assert [words(reply.json()["text"]) for reply in replies] == [words(sentence)] * 4


async def test_a_client_that_leaves_frees_the_engine(voice: Any, whisper: Any, sentence: str) -> None:
    text = " ".join([sentence] * 60)
    long = (await voice.speech(input=text, voice="default", response_format="flac")).body
    whisper.leave = asyncio.Event()
    asyncio.get_running_loop().call_later(1.0, whisper.leave.set)
    gone = await whisper.transcribe(long)
    whisper.leave = None
    assert gone.status == 0, "nobody was there to be answered"
    deadline = time.monotonic() + 4
    while await busy_share() > 0.2:
        assert time.monotonic() < deadline, "the engine goes on with work that nobody waits for"


async def busy_share() -> float:
    """How much of a core this process uses, over a third of a second."""
    before, started = time.process_time(), time.monotonic()
    await asyncio.sleep(0.3)
    return (time.process_time() - before) / (time.monotonic() - started)
