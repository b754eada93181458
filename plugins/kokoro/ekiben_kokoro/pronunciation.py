"""From text to the phonemes that Kokoro was trained on: eSpeak NG's, a few of them written otherwise.

The model's authors write English diphthongs and affricates as single signs; other languages keep eSpeak's.
The table is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from ekiben.contract import InvalidRequest, LoadFailed

if TYPE_CHECKING:
    from piper.phonemize_espeak import EspeakPhonemizer

LANGUAGES: Final = {
    "a": "en-us",
    "b": "en-gb-x-rp",
    "e": "es",
    "f": "fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-br",
    "z": "cmn",
}
"""eSpeak's names, by the first letter of a voice."""

_ENGLISH: Final = {
    "ʔn̩": "tᵊn",
    "ʔ": "t",
    "aɪ": "I",
    "aʊ": "W",
    "dʒ": "ʤ",
    "eɪ": "A",
    "tʃ": "ʧ",
    "ɔɪ": "Y",
    "əl": "ᵊl",
    "ɚ": "əɹ",
    "r": "ɹ",
    "x": "k",
    "ç": "k",
    "ɐ": "ə",
    "ɬ": "l",
    "ʲ": "",
}
_SIGNS: Final[Mapping[str, Mapping[str, str]]] = {
    "en-us": {**_ENGLISH, "oʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ɾ": "T", "ː": ""},
    "en-gb-x-rp": {**_ENGLISH, "eə": "ɛː", "iə": "ɪə", "əʊ": "Q"},
}


class Pronunciation:
    """Blocking, and for one thread: eSpeak keeps its state in the process."""

    def __init__(self, *, language: str | None) -> None:
        """`language`: of all voices; None: told by their names. Raises LoadFailed."""
        from piper.phonemize_espeak import EspeakPhonemizer

        self._espeak: EspeakPhonemizer = EspeakPhonemizer()
        self._language = language
        if language is not None:
            try:
                self._espeak.phonemize(language, "a")
            except (ValueError, OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise LoadFailed(f"eSpeak NG does not speak {language!r}: {reason}") from None

    def language_of(self, voice: str) -> str:
        return self._language or LANGUAGES.get(voice[:1], "en-us")

    def sentences(self, text: str, *, voice: str) -> list[list[str]]:
        """The phonemes of each sentence. Raises InvalidRequest."""
        language = self.language_of(voice)
        try:
            spoken = self._espeak.phonemize(language, text)
        except (ValueError, OSError, RuntimeError):  # a NUL, half of a surrogate pair, an unknown language
            raise InvalidRequest("the input cannot be pronounced: is it text?", param="input") from None
        return [respell(phonemes, language) for phonemes in spoken]


def respell(phonemes: Iterable[str], language: str) -> list[str]:
    """eSpeak's signs as the model knows them. The longest match goes first; stress marks are looked past."""
    signs = _SIGNS.get(language)
    text = "".join(phonemes)
    if signs is None:
        return list(text)
    pattern = "|".join(re.escape(sign) for sign in sorted(signs, key=len, reverse=True))
    return list(re.sub(pattern, lambda match: signs[match[0]], text))
