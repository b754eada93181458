"""OpenAI's checkpoints of Whisper, known by their measures: zip files of torch's, looked at and never run."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Final

from ekiben.catalog.formats import Finding
from ekiben.contract.model import Ability, Family

_HEAD_BYTES: Final = 4096
"""Of the pickle, which begins with the measures."""
_WORDS: Final = re.compile(rb"n_vocab.{0,8}?M(..)", re.DOTALL)
"""The name, its place in the pickle's memory, and a number of two bytes."""
_ENGLISH_WORDS: Final = 51864


def whisper_checkpoint(path: Path) -> Finding | None:
    """None: it is no Whisper of OpenAI's."""
    head = _head(path)
    if b"n_audio_ctx" not in head or (words := _WORDS.search(head)) is None:
        return None
    # English-only models have no language tokens, and cannot translate.
    english = int.from_bytes(words[1], "little") <= _ENGLISH_WORDS
    return Finding(
        weights=path,
        suggested_name=f"whisper-{path.stem}",
        what="Whisper model as OpenAI publishes it",
        family=Family.AUDIO,
        abilities=frozenset({Ability.TRANSCRIBE} if english else {Ability.TRANSCRIBE, Ability.TRANSLATE}),
        format="whisper",
    )


def _head(path: Path) -> bytes:
    """Of the pickle in the zip; nothing, if it is something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                return b""
            with archive.open(names[0]) as file:
                return file.read(_HEAD_BYTES)
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError, zlib.error):
        return b""
