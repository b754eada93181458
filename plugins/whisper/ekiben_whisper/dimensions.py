"""What a Whisper model is made of: its measures, and the names and shapes of its numbers.

Every checkpoint is judged by this before anything of size is allocated. Knows no library and no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from ekiben.contract import LoadFailed

Shape = tuple[int, ...]

_MELS = (80, 128)
_FRAMES = 1500
"""Of half a minute, as the encoder sees it."""
_VOCABULARIES = (51864, 51865, 51866)
"""Of English alone, of 99 languages and of 100: what there is a tokenizer for."""
_MOST_LAYERS = 128
_MOST_WIDTH = 8192
_MOST_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """By the library's own names."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @classmethod
    def of(cls, values: Mapping[str, object], *, name: str) -> Dimensions:
        """Raises LoadFailed when no Whisper is made like that. `name`: the file's, for the message."""
        measures: dict[str, int] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise LoadFailed(f"{name} does not say its {field.name}: it is not a Whisper model of OpenAI")
            measures[field.name] = value
        found = cls(**measures)
        if (wrong := found._wrong()) is not None:
            raise LoadFailed(f"{name} says {wrong} {getattr(found, wrong)}, which no Whisper model has")
        return found

    def _wrong(self) -> str | None:
        """The first measure that cannot be."""
        able = {
            "n_mels": self.n_mels in _MELS,
            "n_audio_ctx": self.n_audio_ctx == _FRAMES,
            "n_vocab": self.n_vocab in _VOCABULARIES,
            "n_text_ctx": 8 <= self.n_text_ctx <= _MOST_TOKENS,
        }
        for side in ("audio", "text"):
            width, heads = getattr(self, f"n_{side}_state"), getattr(self, f"n_{side}_head")
            able[f"n_{side}_layer"] = 1 <= getattr(self, f"n_{side}_layer") <= _MOST_LAYERS
            able[f"n_{side}_state"] = 4 <= width <= _MOST_WIDTH and width % 2 == 0
            able[f"n_{side}_head"] = 1 <= heads <= width and width % heads == 0
        able["n_text_state"] &= self.n_text_state == self.n_audio_state
        return next((measure for measure, is_so in able.items() if not is_so), None)

    @property
    def values(self) -> int:
        """How many numbers there are in all."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def shapes(self) -> dict[str, Shape]:
        """Of each tensor, by its name in the library."""
        audio, text = self.n_audio_state, self.n_text_state
        shapes: dict[str, Shape] = {
            "encoder.conv1.weight": (audio, self.n_mels, 3),
            "encoder.conv1.bias": (audio,),
            "encoder.conv2.weight": (audio, audio, 3),
            "encoder.conv2.bias": (audio,),
            "encoder.positional_embedding": (self.n_audio_ctx, audio),
            "decoder.token_embedding.weight": (self.n_vocab, text),
            "decoder.positional_embedding": (self.n_text_ctx, text),
            **dict(_norm("encoder.ln_post", audio)),
            **dict(_norm("decoder.ln", text)),
        }
        for layer in range(self.n_audio_layer):
            shapes.update(_block(f"encoder.blocks.{layer}", audio, attentions=("attn",)))
        for layer in range(self.n_text_layer):
            shapes.update(_block(f"decoder.blocks.{layer}", text, attentions=("attn", "cross_attn")))
        return shapes


def _block(name: str, width: int, *, attentions: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
    for attention in attentions:
        yield from _norm(f"{name}.{attention}_ln", width)
        for part in ("query", "key", "value", "out"):
            yield f"{name}.{attention}.{part}.weight", (width, width)
            if part != "key":
                yield f"{name}.{attention}.{part}.bias", (width,)
    yield from _norm(f"{name}.mlp_ln", width)
    for part, (outer, inner) in (("0", (4 * width, width)), ("2", (width, 4 * width))):
        yield f"{name}.mlp.{part}.weight", (outer, inner)
        yield f"{name}.mlp.{part}.bias", (outer,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
