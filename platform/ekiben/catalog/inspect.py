"""A model spec from weights that lie on this machine: what they are, told by headers and config files.

Nothing is loaded or executed, and no tensor data is read. Which engines can run what was found is asked
of the manifests, so that engines of others count too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ekiben.catalog import formats
from ekiben.catalog.checkpoints import whisper_checkpoint
from ekiben.catalog.classifiers import timm_classifier
from ekiben.catalog.formats import PICKLE, Finding
from ekiben.contract.gguf import shard_stem
from ekiben.contract.model import ModelSpec, SourceSpec, Variant
from ekiben.errors import ConfigError
from ekiben.plugins.discovery import Plugins

PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
PEFT_CONFIG: Final = "adapter_config.json"
_TAKEN: Final = (
    "a GGUF file, a sentence-transformers, transformers, timm or diffusers folder with safetensors, a "
    "CTranslate2 Whisper folder, OpenAI's Whisper (.pt), a Piper voice (.onnx with .onnx.json), or a folder "
    "of PP-OCR models"
)
_UNNAMED: Final = (
    "; timm's checkpoints do not say what they are of: write a model spec with `architecture` in it"
)


def spec_from_path(path: Path, *, plugins: Plugins, name: str | None = None) -> ModelSpec:
    """Look at the weights and describe them, named after the file unless `name` is given.

    The variants are the engines that can run them, installed ones first. Raises ConfigError.
    """
    path = _absolute(path)
    finding = look(path)
    engines = _engines(finding, plugins)
    if not engines:
        raise ConfigError(_nobody_runs(path, finding, plugins))
    source = SourceSpec.model_validate({"kind": "local", "path": str(finding.weights)})
    try:
        return ModelSpec(
            name=name if name is not None else slug(finding.suggested_name),
            family=finding.family,
            abilities=finding.abilities,
            description=finding.what,
            license=finding.license,
            variants=tuple(
                Variant(
                    format=finding.format, quantization=finding.quantization, engine=engine, source=source
                )
                for engine in engines
            ),
        )
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _absolute(path: Path) -> Path:
    try:
        return Path(os.path.normpath(path.expanduser().absolute()))
    except RuntimeError:
        raise ConfigError(f"{str(path)!r} cannot be told: write an absolute path") from None


def look(path: Path) -> Finding:
    """What lies at an absolute path. Raises ConfigError when it is nothing that an engine could load."""
    try:
        if path.is_dir():
            return _look_at_folder(path)
        if path.is_file():
            return _look_at_file(path)
        if path.exists():
            raise ConfigError(f"{path} is neither a file nor a folder: give {_TAKEN}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    raise ConfigError(f"there is nothing at {path}: give the path of {_TAKEN}")


def slug(text: str) -> str:
    """A model name out of a file's name: lower case, at most 128 plain characters."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", text.lower())
    return re.sub(r"\.{2,}", ".", plain).strip("._-")[:128] or "model"


def _look_at_file(path: Path) -> Finding:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return formats.piper_voice(path)
    if suffix in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path} is not weights: read it as a model spec, or give the folder it lies in")
    if suffix == ".safetensors":
        raise ConfigError(f"{path} is one file of a model: give its folder, with config.json beside it")
    if suffix == ".pt" and (finding := whisper_checkpoint(path)) is not None:
        return finding
    if suffix in PICKLE_SUFFIXES:
        raise ConfigError(f"{path} is not taken: {PICKLE}{_UNNAMED if suffix == '.pth' else ''}")
    return formats.gguf_model(path)


def _look_at_folder(folder: Path) -> Finding:
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    names = {file.name for file in files}
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(file.suffix.lower(), []).append(file)
    if "model_index.json" in names:
        return formats.diffusers_folder(folder)
    if "modules.json" in names:
        return formats.sentence_transformers_folder(folder)
    if {"config.json", "model.bin"} <= names and names & {"vocabulary.json", "vocabulary.txt"}:
        return formats.whisper_folder(folder)
    if "config.json" in names and ".safetensors" in kinds:
        return timm_classifier(folder) or formats.transformers_folder(folder)
    if ".gguf" in kinds:
        return formats.gguf_model(_only_gguf(folder, kinds[".gguf"]))
    if (folder / "voices").is_dir() or any(name.startswith("voices") for name in names):
        return formats.kokoro_folder(folder)
    if ".onnx" in kinds:
        return _look_at_onnx(folder, kinds[".onnx"])
    if PEFT_CONFIG in names:
        raise ConfigError(f"{folder} holds an adapter, not a model: add it with --adapter-of MODEL")
    if pickles := [file.name for file in files if file.suffix.lower() in PICKLE_SUFFIXES]:
        raise ConfigError(f"{folder} holds {pickles[0]} and nothing else to load: {PICKLE}")
    held = f"it holds {', '.join(sorted(names)[:5])}" if names else "it holds no file"
    raise ConfigError(f"{folder} is not a model that is known here, {held}: give {_TAKEN}")


def _only_gguf(folder: Path, files: list[Path]) -> Path:
    """The model of a folder, which may be split, and may have a projector for pictures beside it."""
    models = {shard_stem(file): file for file in files if "mmproj" not in file.name.lower()}
    if len(models) == 1:
        return next(iter(models.values()))
    held = ", ".join(sorted(file.name for file in files)[:8])
    raise ConfigError(f"{folder} holds several GGUF models ({held}): give the path of one of them")


def _look_at_onnx(folder: Path, files: list[Path]) -> Finding:
    names = [file.name.lower() for file in files]
    if any("det" in name for name in names) and any("rec" in name for name in names):
        return formats.ocr_folder(folder)
    if len(files) == 1:
        return formats.piper_voice(files[0])
    raise ConfigError(
        f"{folder} holds several .onnx files ({', '.join(names[:8])}): give the path of one voice"
    )


def _engines(finding: Finding, plugins: Plugins) -> list[str]:
    """Who can run it: installed engines first, each group by name."""
    fitting = {
        plugin_id: plugin
        for plugin_id, plugin in plugins.engines().items()
        if (section := plugin.manifest.engine) is not None
        and finding.family in section.families
        and finding.format in section.formats
        and finding.abilities <= set(section.abilities)
    }
    return sorted(fitting, key=lambda plugin_id: (not plugins.standing(fitting[plugin_id]).ready, plugin_id))


def _nobody_runs(path: Path, finding: Finding, plugins: Plugins) -> str:
    same_family = [
        f"{plugin_id} reads {', '.join(plugin.manifest.engine.formats)}"
        for plugin_id, plugin in sorted(plugins.engines().items())
        if plugin.manifest.engine is not None and finding.family in plugin.manifest.engine.families
    ]
    abilities = ", ".join(sorted(finding.abilities))
    return (
        f"{path} is a model of family {finding.family.value} ({finding.what}), and no engine here can "
        f"{abilities} from the format {finding.format}"
        f" (for {finding.family.value} there is: {'; '.join(same_family) or 'no engine'})"
    )
