"""Speech and transcription with the real models: what one says, the other writes down."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import jiwer
import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

SENTENCES = (
    "The old train left the station slowly.",
    "The teacher asked a question and waited for an answer.",
    "Then it began to rain.",
    "Please stand behind the yellow line until the train has stopped.",
    "The weather was cold, but the children played outside all day.",
    "She wrote a long letter to her friend in the city.",
    "Every evening the lights of the town can be seen from the hill.",
    "The museum is closed on Monday, so we visited the garden.",
    "A cup of hot tea is the best thing after a long walk.",
    "The last boat leaves the island shortly before midnight.",
)


def words(text: str) -> list[str]:
    """Without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def seconds_of(audio: bytes) -> float:
    with av.open(io.BytesIO(audio), "r") as container:
        frames = list(container.decode(audio=0))
    return float(sum(frame.samples for frame in frames) / frames[0].sample_rate)


def wav_of(samples: bytes, *, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, rate_hz, 0, "NONE", ""))
        wav.writeframes(samples)
    return file.getvalue()


async def test_a_spoken_sentence_is_transcribed_word_for_word(
    whisper: Any, spoken: bytes, sentence: str
) -> None:
    reply = await whisper.transcribe(spoken)
    assert reply.status == 200
    answer = Transcription.model_validate(reply.json(), strict=True)
    assert words(answer.text) == words(sentence)
    assert answer.usage is not None and answer.usage.type == "duration"


async def test_ten_sentences_spoken_slowly_are_heard_word_for_word(voice: Any, whisper: Any) -> None:
    heard = []
    for text in SENTENCES:
        spoken = await voice.speech(input=text, voice="default", speed=0.8, response_format="wav")
        heard.append((await whisper.transcribe(spoken.body, language="en")).json()["text"])
    plain = [" ".join(words(text)) for text in SENTENCES]
    assert jiwer.wer(plain, [" ".join(words(text)) for text in heard]) == 0, heard


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_every_speech_format_says_the_same(
    voice: Any, whisper: Any, sentence: str, audio_format: str
) -> None:
    text = f"{sentence} Nobody knows why it does so every morning."
    reply = await voice.speech(input=text, voice="alloy", response_format=audio_format)
    assert reply.status == 200
    assert len(reply.chunks) > 3, "it is sent while it is made"
    audio = reply.body if audio_format != "pcm" else wav_of(reply.body, rate_hz=24_000)
    heard = (await whisper.transcribe(audio, language="en")).json()["text"]
    assert jiwer.wer(" ".join(words(text)), " ".join(words(heard))) < 0.15


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
    reply = await voice.speech(input="one more word " * 40, voice="default", response_format="pcm")
    assert reply.status == 200
    assert len(reply.body) / 48_000 > 12
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
    text = await whisper.transcribe(spoken, response_format="text", language="en")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert words(text.body.decode()) == words(sentence)
    srt = (await whisper.transcribe(spoken, response_format="srt", language="en")).body.decode()
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n\S", srt)
    vtt = (await whisper.transcribe(spoken, response_format="vtt", language="en")).body.decode()
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\n\S", vtt)


async def test_a_streamed_transcript_adds_up(whisper: Any, spoken: bytes, sentence: str) -> None:
    *deltas, done = (await whisper.transcribe(spoken, stream="true", language="en")).events()
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
    replies = await asyncio.gather(*(whisper.transcribe(spoken, language="en") for _ in range(4)))
    assert [words(reply.json()["text"]) for reply in replies] == [words(sentence)] * 4


async def test_a_client_that_leaves_frees_the_engine(whisper: Any, spoken: bytes, sentence: str) -> None:
    """And until it leaves, others get their turn."""
    with wave.open(io.BytesIO(spoken)) as wav:
        long = wav_of(wav.readframes(wav.getnframes()) * 60, rate_hz=wav.getframerate())
    leaving = replace(whisper, leave=asyncio.Event())
    going_on = asyncio.create_task(leaving.transcribe(long, language="en", temperature="0.1"))
    assert words((await whisper.transcribe(spoken)).json()["text"]) == words(sentence)
    assert not going_on.done()
    leaving.leave.set()
    assert (await going_on).status == 0, "nobody was there to be answered"
    deadline = time.monotonic() + 4
    while await busy_share() > 0.2:
        assert time.monotonic() < deadline, "the engine goes on with work that nobody waits for"


async def test_long_recordings_are_heard_in_windows(voice: Any, whisper: Any) -> None:
    text = " ".join(SENTENCES)
    speech = [await voice.speech(input=part, voice="default", response_format="pcm") for part in (text, text)]
    spoken = wav_of(bytes(48_000).join(part.body for part in speech), rate_hz=24_000)
    assert seconds_of(spoken) > 40, "more than a window"
    body = (
        await whisper.transcribe(
            spoken, response_format="verbose_json", timestamp_granularities=["word", "segment"], language="en"
        )
    ).json()
    assert jiwer.wer(" ".join(words(f"{text} {text}")), " ".join(words(body["text"]))) < 0.05
    times = [time for word in body["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[-1] > 40
    assert body["duration"] == pytest.approx(seconds_of(spoken), abs=0.01)
    assert [s["id"] for s in body["segments"]] == list(range(len(body["segments"])))
    assert body["segments"][-1]["seek"] > 0


async def test_only_speech_is_heard(whisper: Any, spoken: bytes, sentence: str) -> None:
    """Whatever is silent is passed over, and the times are those of the whole recording."""
    with wave.open(io.BytesIO(spoken)) as wav:
        rate, samples = wav.getframerate(), wav.readframes(wav.getnframes())
    silence = bytes(40 * rate * 2)
    body = (
        await whisper.transcribe(
            wav_of(silence + samples + silence, rate_hz=rate),
            response_format="verbose_json",
            chunking_strategy='{"type": "server_vad"}',
        )
    ).json()
    assert words(body["text"]) == words(sentence) and body["language"] == "english"
    assert 39.5 < body["segments"][0]["start"] < 41
    assert body["duration"] == pytest.approx(80 + len(samples) / 2 / rate, abs=0.01)


async def test_the_text_and_its_times_are_the_librarys(
    whisper: Any, spoken: bytes, weights: Any, tmp_path: Path
) -> None:
    """Whichever others are heard at the same time."""
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]

    (tmp_path / "spoken.wav").write_bytes(spoken)
    model = WhisperModel(str(weights("whisper-base")), device="cpu", compute_type="int8", cpu_threads=2)
    wanted, _ = model.transcribe(str(tmp_path / "spoken.wav"), beam_size=1, word_timestamps=True)
    alike = [segment for segment in wanted]
    asking = {"response_format": "verbose_json", "timestamp_granularities": ["word", "segment"]}
    for reply in await asyncio.gather(*(whisper.transcribe(spoken, **asking) for _ in range(3))):
        body = reply.json()
        assert [(s["text"], s["start"], s["end"]) for s in body["segments"]] == [
            (segment.text, pytest.approx(segment.start), pytest.approx(segment.end)) for segment in alike
        ]
        assert [word["start"] for word in body["words"]] == [
            pytest.approx(word.start) for segment in alike for word in segment.words or ()
        ]


async def busy_share() -> float:
    """How much of a core this process uses, over a third of a second."""
    before, started = time.process_time(), time.monotonic()
    await asyncio.sleep(0.3)
    return (time.process_time() - before) / (time.monotonic() - started)
