"""`POST /v1/audio/speech`: text in, speech out while it is made."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from ekiben.contract.abilities import AudioChunk, Speak, SpeakRequest
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.audio.formats import FORMATS, encoder, slices, wav_header
from ekiben.runtime.http import Request, Stream, check_model_name, sse_stream

MAX_INPUT_CHARACTERS: Final = 4096
MIN_SPEED: Final = 0.25
MAX_SPEED: Final = 4.0
DEFAULT_VOICE: Final = "default"
OPENAI_VOICES: Final = frozenset(
    {"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer"}
    | {"verse"}
)
"""Clients send these by habit: they mean the default voice, unless a model has one of that name."""
_VOICES_NAMED: Final = 20
FIELDS: Final = ("model", "input", "voice", "instructions", "response_format", "speed", "stream_format")


async def create_speech(request: Request) -> Stream:
    """Bytes of the file as they are made, or the same as events."""
    body = request.json()
    if unknown := [name for name in body if name not in FIELDS]:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not a field of this request", param=unknown[0][:64])
    check_model_name(request, body.get("model"))
    engine: Speak = request.able(Ability.SPEAK)
    wish = parse_body(body, voices=engine.voices)
    audio_format = _choice(body, "response_format", tuple(FORMATS), default="mp3")
    events = _choice(body, "stream_format", ("audio", "sse"), default="audio") == "sse"
    audio = encoded(engine.speak(wish), audio_format)
    if events:
        return Stream(sse_stream(_events(audio, characters=len(wish.text))))
    return Stream(audio, content_type=FORMATS[audio_format].content_type, events=False)


def parse_body(body: dict[str, Any], *, voices: Sequence[str]) -> SpeakRequest:
    """Raises InvalidRequest and UnsupportedParameter."""
    instructions = body.get("instructions")
    if not isinstance(instructions, str | None):
        raise InvalidRequest("'instructions' must be a text", param="instructions")
    if instructions:
        raise UnsupportedParameter(
            "'instructions' are not understood by this model: leave them out", param="instructions"
        )
    return SpeakRequest(text=_input(body), voice=resolve_voice(body.get("voice"), voices), speed=_speed(body))


def resolve_voice(value: object, voices: Sequence[str]) -> str:
    """One of `voices`, from its name, `{"id": name}`, `default`, or a name of OpenAI's."""
    name = value.get("id") if isinstance(value, dict) and set(value) == {"id"} else value
    if name is None:
        raise InvalidRequest("'voice' is required: 'default' works with every model", param="voice")
    if not isinstance(name, str):
        raise InvalidRequest("'voice' must be a name, or an object with the id of a voice", param="voice")
    if name in voices:
        return name
    if name == DEFAULT_VOICE or name in OPENAI_VOICES:
        return voices[0]
    known = ", ".join(voices[:_VOICES_NAMED]) + (", …" if len(voices) > _VOICES_NAMED else "")
    raise InvalidRequest(
        f"there is no voice {name[:64]!r}: use {DEFAULT_VOICE!r} or one of {known}", param="voice"
    )


async def encoded(chunks: AsyncGenerator[AudioChunk, None], name: str) -> AsyncGenerator[bytes, None]:
    """The chunks as one file of the format, in pieces."""
    async with aclosing(chunks):
        first = await anext(chunks, None)
        if first is None:
            raise InvalidRequest("there is nothing in the input that can be spoken", param="input")
        rate_hz = first.sample_rate_hz
        if name == "wav" and first.last:
            # Most programs read the length from the header; here it is known.
            yield wav_header(rate_hz, data_bytes=len(first.samples)) + first.samples
            return
        target = encoder(name, rate_hz=rate_hz)
        chunk: AudioChunk | None = first
        while chunk is not None:
            for piece in slices(chunk.samples, rate_hz=rate_hz):
                if data := target.encode(piece):
                    yield data
                await asyncio.sleep(0)
            chunk = await anext(chunks, None)
        if data := target.finish():
            yield data


async def _events(audio: AsyncGenerator[bytes, None], *, characters: int) -> AsyncGenerator[bytes, None]:
    """Speech models count characters, so that is what stands for input tokens."""
    async with aclosing(audio):
        async for data in audio:
            if data:
                delta = base64.b64encode(data).decode("ascii")
                yield msgspec.json.encode({"type": "speech.audio.delta", "audio": delta})
    usage = {"input_tokens": characters, "output_tokens": 0, "total_tokens": characters}
    yield msgspec.json.encode({"type": "speech.audio.done", "usage": usage})


def _input(body: dict[str, Any]) -> str:
    text = body.get("input")
    if not isinstance(text, str):
        raise InvalidRequest("'input' is required, and must be a text", param="input")
    if not text.strip():
        raise InvalidRequest("'input' is empty", param="input")
    if len(text) > MAX_INPUT_CHARACTERS:
        raise InvalidRequest(
            f"'input' has {len(text)} characters, the limit is {MAX_INPUT_CHARACTERS}", param="input"
        )
    return text


def _speed(body: dict[str, Any]) -> float:
    value = body.get("speed")
    if value is None:
        return 1.0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not MIN_SPEED <= value <= MAX_SPEED:
        raise InvalidRequest(
            f"'speed' must be a number from {MIN_SPEED:g} to {MAX_SPEED:g}, not {str(value)[:64]}",
            param="speed",
        )
    return float(value)


def _choice(body: dict[str, Any], name: str, values: tuple[str, ...], *, default: str) -> str:
    value = body.get(name)
    if value is None:
        return default
    if value not in values:
        raise InvalidRequest(f"{name!r} must be one of {', '.join(values)}, not {value!r:.64}", param=name)
    return str(value)
