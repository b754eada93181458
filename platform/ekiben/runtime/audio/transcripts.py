"""`POST /v1/audio/transcriptions` and `/translations`: speech in, text in five formats out.

Every field of the API is either honoured or refused; none is dropped in silence.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ekiben.contract.abilities import (
    Transcribe,
    TranscribeRequest,
    Transcription,
    TranscriptSegment,
    VoiceActivity,
)
from ekiben.contract.model import Ability
from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.audio.languages import ENGLISH, language_name
from ekiben.runtime.audio.subtitles import srt, vtt
from ekiben.runtime.form import Form
from ekiben.runtime.http import Answer, Request, Stream, check_model_name, sse_stream

FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES: Final = ("word", "segment")

TRANSLATION_FIELDS: Final = frozenset({"model", "language", "prompt", "response_format", "temperature"})
TRANSCRIPTION_FIELDS: Final = TRANSLATION_FIELDS | {
    "timestamp_granularities",
    "stream",
    "include",
    "chunking_strategy",
}
UNSUPPORTED_FIELDS: Final = frozenset(
    {"keywords", "languages", "known_speaker_names", "known_speaker_references"}
)
"""Of models that tell speakers apart or take a vocabulary."""
AUDIO_TOKENS_PER_S: Final = 50
"""What speech models make of a second of sound, and so how the sound itself is counted."""
MAX_SILENCE_MS: Final = 60_000
MAX_PADDING_MS: Final = 5_000
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a form asks for, checked."""

    request: TranscribeRequest
    format: str
    granularities: frozenset[str]
    stream: bool


async def create_transcription(request: Request) -> Answer | Stream:
    """A transcript in the language spoken, whole or as it is made."""
    return await _answer(request, translate=False)


async def create_translation(request: Request) -> Answer | Stream:
    """A transcript in English."""
    return await _answer(request, translate=True)


async def _answer(request: Request, *, translate: bool) -> Answer | Stream:
    form = request.form()
    check_model_name(request, form.one("model"))
    wish = parse_form(form, translate=translate)
    engine: Transcribe = request.able(Ability.TRANSLATE if translate else Ability.TRANSCRIBE)
    transcription = await engine.transcribe(wish.request)
    found = _told(request, transcription)
    if wish.stream:
        return Stream(sse_stream(_events(transcription, found)))
    async with aclosing(found):
        segments = [segment async for segment in found]
    return render(wish, transcription, segments)


async def _told(request: Request, transcription: Transcription) -> AsyncGenerator[TranscriptSegment, None]:
    """The segments, while the platform is told how many seconds of the recording have been heard.

    How many there are in all is not known before the last of them has been decoded: headers lie.
    """
    async with aclosing(transcription.segments) as segments:
        async for segment in segments:
            request.tell(round(segment.end_s, 2), total=None, unit="seconds")
            yield segment


def parse_form(form: Form, *, translate: bool) -> Wish:
    """Raises InvalidRequest and UnsupportedParameter."""
    _check_fields(form, TRANSLATION_FIELDS if translate else TRANSCRIPTION_FIELDS)
    response_format = _format(form)
    granularities = _granularities(form, response_format)
    stream = _flag(form, "stream")
    if stream and response_format not in ("json", "text"):
        raise InvalidRequest(f"{response_format!r} cannot be streamed: ask for json or text", param="stream")
    if (upload := form.files.get("file")) is None:
        raise InvalidRequest("'file' is required, and must be sent as a file", param="file")
    if upload.size_bytes == 0:
        raise InvalidRequest("the file is empty", param="file")
    return Wish(
        request=TranscribeRequest(
            audio=upload.path,
            translate=translate,
            language=(form.one("language") or "").strip().lower() or None,
            prompt=form.one("prompt") or None,
            temperature=_temperature(form),
            words="word" in granularities,
            voice_activity=_voice_activity(form),
        ),
        format=response_format,
        granularities=granularities,
        stream=stream,
    )


def render(wish: Wish, transcription: Transcription, segments: Sequence[TranscriptSegment]) -> Answer:
    """The whole answer in the format asked for."""
    if wish.format == "srt":
        return Answer(srt(segments).encode(), _PLAIN)
    if wish.format == "vtt":
        return Answer(vtt(segments).encode(), _PLAIN)
    text = "".join(segment.text for segment in segments).strip()
    if wish.format == "text":
        return Answer(f"{text}\n".encode(), _PLAIN)
    body: dict[str, Any] = (
        _verbose(wish, transcription, segments, text) if wish.format == "verbose_json" else {"text": text}
    )
    if not wish.request.translate:  # whose answers have none
        body["usage"] = {"type": "duration", "seconds": math.ceil(transcription.duration_s)}
    return Answer(msgspec.json.encode(body))


def _verbose(
    wish: Wish, transcription: Transcription, segments: Sequence[TranscriptSegment], text: str
) -> dict[str, Any]:
    translate = wish.request.translate
    body: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": ENGLISH if translate else language_name(transcription.language),
        "duration": _seconds(transcription.duration_s),
        "text": text,
    }
    if "word" in wish.granularities:
        body["words"] = [
            {"word": word.word.strip(), "start": _seconds(word.start_s), "end": _seconds(word.end_s)}
            for segment in segments
            for word in segment.words
        ]
    if "segment" in wish.granularities:
        body["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    return body


def _segment(number: int, segment: TranscriptSegment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": segment.seek,
        "start": _seconds(segment.start_s),
        "end": _seconds(segment.end_s),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


async def _events(
    transcription: Transcription, segments: AsyncGenerator[TranscriptSegment, None]
) -> AsyncGenerator[bytes, None]:
    """Deltas that add up to the text of the last event."""
    text = pending = ""
    tokens = 0
    async with aclosing(segments):
        async for segment in segments:
            tokens += len(segment.tokens)
            delta = pending + segment.text
            delta = delta if text else delta.lstrip()
            # White space at the end is not sent before it is known to be inside the text.
            pending = delta[len(delta.rstrip()) :]
            delta = delta.rstrip()
            if delta:
                text += delta
                yield msgspec.json.encode({"type": "transcript.text.delta", "delta": delta})
    usage = _tokens_used(transcription.duration_s, tokens)
    yield msgspec.json.encode({"type": "transcript.text.done", "text": text, "usage": usage})


def _tokens_used(duration_s: float, output_tokens: int) -> dict[str, Any]:
    """The one kind of usage that the last event may have."""
    heard = math.ceil(duration_s * AUDIO_TOKENS_PER_S)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        "output_tokens": output_tokens,
        "total_tokens": heard + output_tokens,
    }


def _check_fields(form: Form, known: frozenset[str]) -> None:
    for field in [*form.fields, *form.files]:
        name = field.partition("[")[0]
        if name in UNSUPPORTED_FIELDS:
            raise UnsupportedParameter(f"{name!r} is not supported by this model: leave it out", param=name)
        if name not in known and name != "file":
            raise InvalidRequest(f"{name[:64]!r} is not a field of this request", param=name[:64])
    if include := form.many("include"):
        raise UnsupportedParameter(
            f"'include' cannot have {include[0][:64]!r} with this model", param="include"
        )


def _voice_activity(form: Form) -> VoiceActivity | None:
    """From `chunking_strategy`, as JSON or in fields of its own. Long audio is always cut where it is quiet,
    which is what `auto` asks for.
    """
    given = _chunking_strategy(form)
    if given is None:
        return None
    if given.pop("type", None) != "server_vad":
        raise _chunking_error("must be 'auto', or an object of type 'server_vad'")
    read = {
        "threshold": _chunking_number(given, "threshold", 0.5, most=1.0),
        "silence_s": _chunking_number(given, "silence_duration_ms", 200, most=MAX_SILENCE_MS) / 1000,
        "padding_s": _chunking_number(given, "prefix_padding_ms", 300, most=MAX_PADDING_MS) / 1000,
    }
    if given:
        raise _chunking_error(f"has no field {min(given)[:64]!r}")
    return VoiceActivity(**read)


def _chunking_strategy(form: Form) -> dict[str, Any] | None:
    name = "chunking_strategy"
    inner = {
        field[len(name) + 1 : -1]: form.one(field)
        for field in form.fields
        if field.startswith(f"{name}[") and field.endswith("]")
    }
    text = form.one(name)
    if text is None:
        return inner or None
    if text in ("", "auto") and not inner:
        return None
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict) or inner:
        raise _chunking_error("must be 'auto', or an object of type 'server_vad'")
    return found


def _chunking_number(given: dict[str, Any], field: str, default: float, *, most: float) -> float:
    value = given.pop(field, default)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most:
        raise _chunking_error(f"must have a number from 0 to {most:g} as {field!r}")
    return number


def _chunking_error(reason: str) -> InvalidRequest:
    return InvalidRequest(f"'chunking_strategy' {reason}", param="chunking_strategy")


def _format(form: Form) -> str:
    value = form.one("response_format") or "json"
    if value == "diarized_json":
        raise UnsupportedParameter(
            "this model does not tell speakers apart: ask for verbose_json", param="response_format"
        )
    if value not in FORMATS:
        raise InvalidRequest(
            f"'response_format' must be one of {', '.join(FORMATS)}, not {value[:64]!r}",
            param="response_format",
        )
    return value


def _granularities(form: Form, response_format: str) -> frozenset[str]:
    values = form.many("timestamp_granularities")
    for value in values:
        if value not in GRANULARITIES:
            raise InvalidRequest(
                f"'timestamp_granularities' must be word or segment, not {value[:64]!r}",
                param="timestamp_granularities",
            )
    if values and response_format != "verbose_json":
        raise InvalidRequest(
            "'timestamp_granularities' needs response_format 'verbose_json'", param="timestamp_granularities"
        )
    return frozenset(values or ("segment",))


def _temperature(form: Form) -> float | None:
    text = form.one("temperature")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise InvalidRequest(
            f"'temperature' must be a number from 0 to 1, not {text[:64]!r}", param="temperature"
        )
    return value


def _flag(form: Form, name: str) -> bool:
    text = (form.one(name) or "false").lower()
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name!r} must be true or false, not {text[:64]!r}", param=name)
    return text == "true"


def _seconds(value: float) -> float:
    return round(value, 3)
