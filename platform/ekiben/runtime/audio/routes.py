"""The routes of the audio family: see `transcripts` and `speech`."""

from __future__ import annotations

from typing import Final

from ekiben.contract.model import Ability
from ekiben.runtime.audio.speech import create_speech
from ekiben.runtime.audio.transcripts import create_transcription, create_translation
from ekiben.runtime.http import Route

ROUTES: Final = (
    Route("POST", "/v1/audio/transcriptions", frozenset({Ability.TRANSCRIBE}), create_transcription),
    Route("POST", "/v1/audio/translations", frozenset({Ability.TRANSLATE}), create_translation),
    Route("POST", "/v1/audio/speech", frozenset({Ability.SPEAK}), create_speech),
)
