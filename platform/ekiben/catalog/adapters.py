"""LoRA adapters on this machine: told by their headers, and put beside the model that they were made for.

An adapter is no model by itself: it becomes part of its base's spec, and clients name it `base:adapter`.
Nothing is loaded, and no tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ekiben.catalog.formats import PICKLE, read_json
from ekiben.catalog.inspect import PEFT_CONFIG, slug
from ekiben.contract.gguf import read_gguf
from ekiben.contract.model import ModelSpec, SourceSpec, Variant
from ekiben.errors import ConfigError, Conflict
from ekiben.plugins.discovery import Plugins

_PEFT_WEIGHTS: Final = "adapter_model.safetensors"
_GGUF: Final = "gguf"
_NAME_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class Adapter:
    """What lies at a path."""

    path: Path
    """The file or folder that engines load."""
    format: str
    """`gguf` or `peft`."""
    made_for: str | None
    """What its header says that it was made for."""

    @property
    def source(self) -> SourceSpec:
        return SourceSpec.model_validate({"kind": "local", "path": str(self.path)})

    def fits(self, variant: Variant) -> bool:
        """Whether it is in the format that goes with the variant's weights."""
        return (variant.format == _GGUF) == (self.format == _GGUF)


def look_at_adapter(path: Path) -> Adapter:
    """What an absolute path holds. Raises ConfigError when it is no LoRA adapter."""
    if path.is_dir():
        return _peft_folder(path)
    if path.is_file():
        return _gguf_file(path)
    raise ConfigError(f"there is no adapter at {path}: give a PEFT folder, or a GGUF file")


def with_adapter(
    base: ModelSpec, name: str, adapter: Adapter, *, plugins: Plugins, replace: bool = False
) -> ModelSpec:
    """The base with the adapter beside each variant that can take it.

    Raises ConfigError when none can, Conflict when the name is taken and is not to be replaced.
    """
    if name in base.adapters and not replace:
        raise Conflict(
            f"the model {base.name!r} has an adapter {name!r} already: replace it, or choose another name"
        )
    others = without_adapter(base, name)
    takers = [_takes_adapters(variant, plugins) and adapter.fits(variant) for variant in others.variants]
    if not any(takers):
        raise ConfigError(
            f"the model {base.name!r} has no variant that takes an adapter in the format {adapter.format} "
            f"({'; '.join(_why_not(variant, plugins) for variant in base.variants)})"
        )
    variants = [
        _with(variant, variant.adapters | {name: adapter.source}) if takes else variant
        for variant, takes in zip(others.variants, takers, strict=True)
    ]
    return _checked(others, variants)


def without_adapter(base: ModelSpec, name: str) -> ModelSpec:
    """The base as if it had never had the adapter."""
    variants = [
        _with(variant, {other: source for other, source in variant.adapters.items() if other != name})
        for variant in base.variants
    ]
    return base.model_copy(update={"variants": tuple(variants)})


def adapter_name(path: Path) -> str:
    """A name made from the file's or folder's."""
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    return slug(stem)[:_NAME_CHARACTERS].rstrip("._-")


def _peft_folder(folder: Path) -> Adapter:
    config_path = folder / PEFT_CONFIG
    if not config_path.is_file():
        raise ConfigError(f"{folder} is no PEFT adapter: there is no {PEFT_CONFIG} in it")
    config = read_json(config_path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{folder} is a PEFT adapter of the type {kind!r}: only LORA can be served")
    if not (folder / _PEFT_WEIGHTS).is_file():
        pickled = (folder / _PEFT_WEIGHTS).with_suffix(".bin").is_file()
        reason = PICKLE if pickled else f"there is no {_PEFT_WEIGHTS} in it"
        raise ConfigError(f"{folder} is not taken: {reason}")
    base = config.get("base_model_name_or_path")
    return Adapter(folder, "peft", base if isinstance(base, str) and base else None)


def _gguf_file(path: Path) -> Adapter:
    header = read_gguf(path)
    if header.kind != "adapter":
        raise ConfigError(f"{path} holds a {header.kind}, not an adapter: leave --adapter-of out to add it")
    kind = header.metadata.get("adapter.type")
    if kind != "lora":
        raise ConfigError(f"{path} is an adapter of the type {kind!r}: only lora can be served")
    return Adapter(path, _GGUF, header.architecture)


def _takes_adapters(variant: Variant, plugins: Plugins) -> bool:
    plugin = plugins.engines().get(variant.engine)
    return plugin is not None and plugin.manifest.engine is not None and plugin.manifest.engine.adapters


def _why_not(variant: Variant, plugins: Plugins) -> str:
    if not _takes_adapters(variant, plugins):
        return f"{variant.engine} takes none"
    return f"{variant.engine} runs {variant.format}"


def _with(variant: Variant, adapters: Mapping[str, SourceSpec]) -> Variant:
    return variant.model_copy(update={"adapters": dict(adapters)})


def _checked(base: ModelSpec, variants: list[Variant]) -> ModelSpec:
    """Names are checked by the model itself."""
    changed = base.model_copy(update={"variants": tuple(variants)})
    try:
        return ModelSpec.model_validate(changed.model_dump(mode="json"))
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
