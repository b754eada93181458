"""What a model is: the entry of the catalog that clients name, as a validated value.

Parsing YAML and its file:line errors belong to `ekiben.catalog`; here is only the shape.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator
from pydantic import model_validator as validates_model


class Family(StrEnum):
    """One Bento each, in `bentos/`."""

    LLM = "llm"
    EMBEDDING = "embedding"
    VISION = "vision"
    AUDIO = "audio"


class Ability(StrEnum):
    """What a model can do. An ability has one protocol in `ekiben.contract.abilities`."""

    CHAT = "chat"
    COMPLETE = "complete"
    EMBED = "embed"
    RERANK = "rerank"
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"
    SPEAK = "speak"
    READ_TEXT = "read_text"
    CLASSIFY = "classify"
    DETECT = "detect"
    GENERATE_IMAGE = "generate_image"
    EDIT_IMAGE = "edit_image"
    MODERATE = "moderate"


ABILITIES_OF_FAMILY: Final[dict[Family, frozenset[Ability]]] = {
    Family.LLM: frozenset({Ability.CHAT, Ability.COMPLETE}),
    Family.EMBEDDING: frozenset({Ability.EMBED, Ability.RERANK, Ability.MODERATE}),
    Family.AUDIO: frozenset({Ability.TRANSCRIBE, Ability.TRANSLATE, Ability.SPEAK}),
    Family.VISION: frozenset(
        {Ability.READ_TEXT, Ability.CLASSIFY, Ability.DETECT, Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}
    ),
}

TEXT_ABILITIES: Final = frozenset({Ability.CHAT, Ability.COMPLETE, Ability.EMBED, Ability.RERANK})
"""Of models that read text, and so have a tokenizer."""

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_ADAPTER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_duration_s(value: object) -> float:
    """Seconds from `300`, `"90s"`, `"5m"`, `"1.5h"` or `"never"` (infinity). Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("a duration is a number of seconds, a text like 5m, or never")
    if isinstance(value, (int, float)):
        seconds = float(value)
    elif isinstance(value, str) and value.strip().lower() == "never":
        return math.inf
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip().lower())):
        seconds = float(match[1]) * _UNIT_S[match[2]]
    else:
        raise ValueError(f"{value!r} is not a duration: write seconds, a text like 90s, 5m or 1h, or never")
    if math.isnan(seconds) or seconds < 0:
        raise ValueError("a duration cannot be negative")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration_s` reads back to the same number of seconds."""
    if math.isinf(seconds):
        return "never"
    for unit in ("d", "h", "m"):
        size = _UNIT_S[unit]
        if seconds and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"


def _parse_keep_alive_s(value: object) -> float | None:
    return None if value is None or value == AUTO else parse_duration_s(value)


def _format_keep_alive(seconds: float | None) -> str:
    return AUTO if seconds is None else format_duration(seconds)


AUTO: Final = "auto"

KeepAlive = Annotated[
    float | None,
    BeforeValidator(_parse_keep_alive_s),
    PlainSerializer(_format_keep_alive, return_type=str),
]
"""Idle seconds until a model is unloaded: 0 = at once, infinity (`never`) = stays. None (`auto`): somebody
else decides."""


def _parse_target_s(value: object) -> float | None:
    seconds = None if value is None else parse_duration_s(value)
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError("a batch takes a time above zero and below never")
    return seconds


Target = Annotated[
    float | None,
    BeforeValidator(_parse_target_s),
    PlainSerializer(lambda seconds: None if seconds is None else format_duration(seconds)),
]
"""Seconds, above zero."""


def _check_cron(line: str) -> None:
    """Raises ValueError."""
    from cronsim import CronSim, CronSimError

    try:
        if len(line.split()) != 5:
            raise CronSimError("it has not five fields")
        next(CronSim(line, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        why = str(error) or "it is never due"
        raise ValueError(
            f"{line!r} is not a cron line ({why[:1].lower()}{why[1:]}): "
            "write minute, hour, day of month, month and day of week, as in '0 8 * * 1-5'"
        ) from None


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class SourceSpec(BaseModel):
    """Where weights come from: the id of a source plugin, and that plugin's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(min_length=1)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but `kind`, as the manifest of the source describes it."""
        return dict(self.__pydantic_extra__ or {})


class Variant(_Spec):
    """One way to run the model: weights in one format, and the engine that takes them."""

    format: str = Field(min_length=1)
    """What the engine's manifest calls it: `gguf`, `safetensors`, `ctranslate2`, `piper`, `onnx`."""
    quantization: str | None = None
    source: SourceSpec
    engine: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that engine, as its manifest describes them."""
    companions: dict[str, SourceSpec] = Field(default_factory=dict)
    """Further weights that are loaded with the model's own, by the names in the engine's manifest: a
    projector for pictures, a draft model."""
    adapters: dict[str, SourceSpec] = Field(default_factory=dict)
    """LoRA adapters by name. Each is a model of its own to clients, `model:adapter`, and shares the
    replicas of this one."""

    @field_validator("adapters")
    @classmethod
    def _adapters_have_plain_names(cls, adapters: dict[str, SourceSpec]) -> dict[str, SourceSpec]:
        for name in adapters:
            if not _ADAPTER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of an adapter: letters, digits and . _ - only")
        return adapters


class ReplicaRange(_Spec):
    """How many processes may serve a model at a time."""

    min: int = Field(default=0, ge=0, le=64)
    """So many are kept, used or not."""
    max: int = Field(default=1, ge=1, le=64)
    concurrency: int | None = Field(default=None, ge=1)
    """Requests at a time that one is meant for: with more, another one is started. None: the platform's
    default."""

    @validates_model(mode="after")
    def _is_a_range(self) -> ReplicaRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, which is more than max, {self.max}")
        return self


class Preference(_Spec):
    """What a user wants of the choice among variants; what is None is left to the platform."""

    engine: str | None = None
    quantization: str | None = None


class ModelSpec(_Spec):
    """An entry of the catalog. Which of the variants runs is the platform's choice, by hardware, memory and
    what is installed, unless `prefer` says; where it is all the same, their order decides."""

    name: str
    family: Family
    abilities: frozenset[Ability] = Field(min_length=1)
    description: str = ""
    license: str | None = None
    aliases: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = Field(min_length=1)
    keep_alive: KeepAlive = None
    """None: as the platform's setting says, which by default leaves it to the policy."""
    replicas: ReplicaRange = ReplicaRange()
    pinned: bool = False
    """Once loaded, it is never unloaded to make room for another model."""
    prewarm: tuple[str, ...] = ()
    """Cron lines: at these times, on the platform's clock, the model is brought up without a request."""
    batch_target: Target = None
    """How long one batch of many clients' requests may take, where the engine leaves their batching to the
    platform. None: as suits what a single one takes."""
    prefer: Preference = Preference()
    """Which of the variants to run."""
    chat_template: str | None = None
    """A Jinja template that every engine which renders chats uses instead of the model's own."""

    @field_validator("prewarm")
    @classmethod
    def _lines_are_due_some_day(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            _check_cron(line)
        return lines

    @field_validator("name", "aliases")
    @classmethod
    def _names_are_plain(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if not NAME_PATTERN.fullmatch(name) or ".." in name:
                raise ValueError(
                    f"{name!r} is not a model name: up to 128 letters, digits and . _ : / -, "
                    "beginning with a letter or digit"
                )
        return value

    @validates_model(mode="after")
    def _abilities_belong_to_family(self) -> ModelSpec:
        if strange := self.abilities - ABILITIES_OF_FAMILY[self.family]:
            raise ValueError(
                f"family {self.family.value} cannot {', '.join(sorted(strange))}: "
                f"it can {', '.join(sorted(ABILITIES_OF_FAMILY[self.family]))}"
            )
        return self

    @property
    def adapters(self) -> frozenset[str]:
        """Of all variants."""
        return frozenset(name for variant in self.variants for name in variant.adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """All that clients may send for it: its name, its aliases, and `name:adapter` for its adapters."""
        return (self.name, *self.aliases, *(f"{self.name}:{adapter}" for adapter in sorted(self.adapters)))

    def answers_to(self, name: str) -> bool:
        """Whether a client that sends `name` means this model, or one of its adapters."""
        return name in self.names

    def adapter_of(self, name: str) -> str | None:
        """The adapter that a client means who sends `name`, one of `names`."""
        own, _, adapter = name.rpartition(":")
        return adapter if own == self.name and adapter in self.adapters else None
