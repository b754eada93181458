"""What the audio routes accept, and how they refuse the rest."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from openai.types.audio import (
    TranscriptionTextDoneEvent,
    speech_create_params,
    transcription_create_params,
    translation_create_params,
)

from ekiben.contract.abilities import AudioChunk, Transcription, TranscriptSegment, VoiceActivity
from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.audio.languages import LANGUAGE_NAMES, language_name
from ekiben.runtime.audio.speech import FIELDS, OPENAI_VOICES, encoded, parse_body, resolve_voice
from ekiben.runtime.audio.transcripts import (
    TRANSCRIPTION_FIELDS,
    TRANSLATION_FIELDS,
    UNSUPPORTED_FIELDS,
    _events,
    parse_form,
)
from ekiben.runtime.form import Form, Upload

VOICES = ("anna", "bela", "onyx")


def form(**fields: str | list[str]) -> Form:
    upload = Upload(Path("/nowhere"), "a.wav", "audio/wav", 10)
    values = {name: [value] if isinstance(value, str) else value for name, value in fields.items()}
    return Form(fields={"model": ["m"]} | values, files={"file": upload})


def test_defaults_of_a_transcription() -> None:
    wish = parse_form(form(), translate=False)
    assert (wish.format, wish.stream, wish.granularities) == ("json", False, frozenset({"segment"}))
    assert wish.request.language is None and wish.request.prompt is None
    assert wish.request.temperature is None
    assert not wish.request.words and not wish.request.translate


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_granularities_with_and_without_brackets(name: str) -> None:
    fields: dict[str, Any] = {name: ["word", "segment"], "response_format": "verbose_json"}
    wish = parse_form(form(**fields), translate=False)
    assert wish.granularities == frozenset({"word", "segment"}) and wish.request.words


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": ["json", "text"]}, "response_format"),
        ({"temperature": "1.1"}, "temperature"),
        ({"temperature": "-0.1"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        (
            {"timestamp_granularities[]": "minute", "response_format": "verbose_json"},
            "timestamp_granularities",
        ),
        ({"include[]": "logprobs"}, "include"),
        ({"chunking_strategy": "never"}, "chunking_strategy"),
        ({"chunking_strategy": "[]"}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "client_vad"}'}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad", "speed": 2}'}, "chunking_strategy"),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": true}'}, "chunking_strategy"),
        ({"chunking_strategy[threshold]": "0.5"}, "chunking_strategy"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "2"}, "chunking_strategy"),
        (
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "long"},
            "chunking_strategy",
        ),
        ({"known_speaker_names[]": "Anna"}, "known_speaker_names"),
        ({"keywords[]": "Ekiben"}, "keywords"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_form(form(**fields), translate=False)
    assert caught.value.param == param


def test_known_fields_that_no_engine_honours_are_said_to_be_unsupported() -> None:
    for fields in ({"response_format": "diarized_json"}, {"languages[]": "en"}, {"include[]": "logprobs"}):
        with pytest.raises(UnsupportedParameter):
            parse_form(form(**fields), translate=False)


def test_automatic_chunking_is_accepted() -> None:
    assert parse_form(form(chunking_strategy="auto"), translate=False).request.voice_activity is None


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": '{"type": "server_vad", "threshold": 0.7, "silence_duration_ms": 500}'},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.7",
            "chunking_strategy[silence_duration_ms]": "500",
        },
    ],
)
def test_voice_activity_as_json_and_in_fields(fields: dict[str, Any]) -> None:
    wish = parse_form(form(**fields), translate=False)
    assert wish.request.voice_activity == VoiceActivity(threshold=0.7, silence_s=0.5, padding_s=0.3)


def test_translations_take_fewer_fields() -> None:
    assert parse_form(form(prompt="x"), translate=True).request.translate
    with pytest.raises(InvalidRequest, match="not a field"):
        parse_form(form(stream="true"), translate=True)


def test_the_file_is_required_and_not_empty() -> None:
    for files in ({}, {"file": Upload(Path("/nowhere"), "a.wav", "", 0)}):
        with pytest.raises(InvalidRequest) as caught:
            parse_form(Form(fields={"model": ["m"]}, files=files), translate=False)
        assert caught.value.param == "file"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 3}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"voice": None}, "voice"),
        ({"voice": 3}, "voice"),
        ({"voice": {"id": 3}}, "voice"),
        ({"voice": {"id": "anna", "more": 1}}, "voice"),
        ({"voice": "carol"}, "voice"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": True}, "speed"),
        ({"speed": "1"}, "speed"),
        ({"instructions": ["whisper"]}, "instructions"),
        ({"instructions": "whisper"}, "instructions"),
    ],
)
def test_bad_speech_requests_are_named(body: dict[str, Any], param: str) -> None:
    if body:
        body = {"input": "Hello.", "voice": "anna"} | body
    with pytest.raises(InvalidRequest) as caught:
        parse_body(body, voices=VOICES)
    assert caught.value.param == param


def test_a_speech_request() -> None:
    request = parse_body({"input": "x" * 4096, "voice": {"id": "bela"}, "instructions": ""}, voices=VOICES)
    assert (len(request.text), request.voice, request.speed) == (4096, "bela", 1.0)


def test_voices() -> None:
    assert resolve_voice("default", VOICES) == "anna"
    assert resolve_voice("onyx", VOICES) == "onyx", "a voice of the model's own goes first"
    assert {resolve_voice(name, VOICES) for name in OPENAI_VOICES - {"onyx"}} == {"anna"}
    with pytest.raises(InvalidRequest, match="anna, bela, onyx"):
        resolve_voice("carol", VOICES)
    with pytest.raises(InvalidRequest) as caught:
        resolve_voice("carol", [f"speaker {number}" for number in range(900)])
    assert len(caught.value.message) < 400


async def test_deltas_add_up_to_the_text() -> None:
    async def segments() -> AsyncGenerator[TranscriptSegment, None]:
        for text in (" ", " Hello ", "there.", " ", " Bye. "):
            yield TranscriptSegment(text=text, start_s=0, end_s=1, tokens=[1, 2])

    transcription = Transcription(language="en", duration_s=2.01, segments=segments())
    events = [json.loads(event) async for event in _events(transcription, transcription.segments)]
    assert len(events) == 4
    done = TranscriptionTextDoneEvent.model_validate(events[-1], strict=True)
    assert done.text == "Hello there.  Bye." == "".join(event["delta"] for event in events[:-1])
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (101, 10, 111)


async def test_speech_that_is_given_up_closes_the_engine() -> None:
    closed = False

    async def speak() -> AsyncGenerator[AudioChunk, None]:
        nonlocal closed
        try:
            while True:
                yield AudioChunk(samples=bytes(44_100), sample_rate_hz=22_050)
        finally:
            closed = True

    for name in ("mp3", "wav"):
        closed = False
        audio = encoded(speak(), name)
        assert await anext(audio)
        await audio.aclose()
        assert closed


@pytest.mark.parametrize("name", ["aac", "flac", "mp3", "opus", "pcm", "wav"])
async def test_the_first_sound_waits_for_no_second(name: str) -> None:
    made = 0

    async def speak() -> AsyncGenerator[AudioChunk, None]:
        nonlocal made
        while True:
            made += 1
            yield AudioChunk(samples=bytes(44_100), sample_rate_hz=22_050)

    audio = encoded(speak(), name)
    assert await anext(audio)
    assert made == 1
    await audio.aclose()


async def test_a_file_of_one_chunk_tells_its_length() -> None:
    async def speak() -> AsyncGenerator[AudioChunk, None]:
        yield AudioChunk(samples=bytes(44_100), sample_rate_hz=22_050, last=True)

    data = b"".join([piece async for piece in encoded(speak(), "wav")])
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == 22_050


def test_every_field_of_the_official_client_is_known() -> None:
    """A field that upstream adds has to be honoured or refused here by name."""
    speech = set(speech_create_params.SpeechCreateParams.__annotations__)
    assert set(FIELDS) == speech
    transcription = set(transcription_create_params.TranscriptionCreateParamsStreaming.__annotations__)
    assert TRANSCRIPTION_FIELDS | UNSUPPORTED_FIELDS | {"file"} == transcription
    translation = set(translation_create_params.TranslationCreateParams.__annotations__)
    assert TRANSLATION_FIELDS | {"file"} == translation | {"language"}
    voices = next(member for member in get_args(speech_create_params.Voice) if get_origin(member) is Literal)
    assert set(get_args(voices)) == OPENAI_VOICES


def test_every_language_of_whisper_has_a_name() -> None:
    assert len(LANGUAGE_NAMES) == 100
    assert language_name("de") == "german"
    assert language_name("ht") == "haitian creole"
    assert language_name("tlh") == "tlh"
