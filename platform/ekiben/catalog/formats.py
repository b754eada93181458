"""The formats of weights that are recognised, one function each: what lies there, told without loading it.

A function is called for a path that looks like its format; it returns a Finding, or raises ConfigError
that says what is wrong with it. Which engines exist is not known here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ekiben.catalog.safetensors import count_parameters
from ekiben.contract.gguf import GgufModel, read_gguf, shard_stem, shards
from ekiben.contract.model import Ability, Family
from ekiben.errors import ConfigError

MAX_JSON_BYTES: Final = 16 * 2**20
PICKLE: Final = (
    "pickle weights can run any program when they are loaded: convert them to safetensors, "
    "or fetch the model in safetensors or GGUF"
)
_ENCODERS: Final = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""GGUF architectures that embed and cannot write."""
_ALSO_EDIT: Final = (
    "Flux2",
    "FluxKontext",
    "FluxPipeline",
    "Kandinsky3",
    "LatentConsistencyModel",
    "QwenImage",
    "StableDiffusion",
    "ZImagePipeline",
)
"""Pipelines of diffusers whose parts also make pictures from pictures, by the beginnings of their names."""

_CHOOSERS: Final = frozenset({"clip", "siglip", "siglip2"})
"""Models that compare pictures with words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What lies at a path, before it is asked who can run it."""

    weights: Path
    """The file or folder that engines load."""
    suggested_name: str
    what: str
    """For a person: describes the model."""
    family: Family
    abilities: frozenset[Ability]
    format: str
    quantization: str | None = None
    license: str | None = None


def gguf_model(path: Path) -> Finding:
    """A GGUF file, or any one of the files of a split model."""
    files = shards(path)
    parts = [read_gguf(file) for file in files]
    model = parts[0]
    if model.kind != "model" or model.architecture == "clip":
        kind = "mmproj" if model.architecture == "clip" else model.kind
        hint = ": add it with --adapter-of MODEL" if kind == "adapter" else ""
        raise ConfigError(
            f"{path} holds a part for another model ({kind}), not a model that runs by itself{hint}"
        )
    embeds = model.pooled or model.architecture in _ENCODERS
    return Finding(
        weights=files[0],
        suggested_name=shard_stem(path),
        what=_gguf_description(model, parameters=sum(part.parameters for part in parts)),
        family=Family.EMBEDDING if embeds else Family.LLM,
        abilities=_vector_abilities(model) if embeds else _text_abilities(model.has_chat_template),
        format="gguf",
        quantization=model.quantization,
        license=model.license[:100] if model.license else None,
    )


def piper_voice(path: Path) -> Finding:
    """A Piper voice: NAME.onnx with NAME.onnx.json beside it."""
    config_path = path.with_name(path.name + ".json")
    if not config_path.is_file():
        raise ConfigError(f"{path} is taken as a Piper voice, and its {config_path.name} is not beside it")
    config = read_json(config_path)
    audio = config.get("audio")
    rate_hz = audio.get("sample_rate") if isinstance(audio, dict) else None
    if not isinstance(rate_hz, int) or "phoneme_id_map" not in config:
        raise ConfigError(
            f"{config_path} is not the config of a Piper voice: no audio.sample_rate, no phonemes"
        )
    language = config.get("language")
    code = language.get("code") if isinstance(language, dict) else None
    return Finding(
        weights=path,
        suggested_name=path.stem,
        what=f"Piper voice, {_shown(code, 'language unknown')}, {rate_hz} Hz",
        family=Family.AUDIO,
        abilities=frozenset({Ability.SPEAK}),
        format="piper",
    )


def kokoro_folder(folder: Path) -> Finding:
    """A Kokoro network with the styles of its voices."""
    loose = len(list((folder / "voices").glob("*.bin")))
    return Finding(
        weights=folder,
        suggested_name=folder.name,
        what=f"Kokoro, {loose} voices" if loose else "Kokoro, an archive of voices",
        family=Family.AUDIO,
        abilities=frozenset({Ability.SPEAK}),
        format="kokoro",
    )


def ocr_folder(folder: Path) -> Finding:
    """A folder of PP-OCR models, known by `det` and `rec` in their names."""
    return Finding(
        weights=folder,
        suggested_name=folder.name,
        what="PP-OCR models for text in pictures",
        family=Family.VISION,
        abilities=frozenset({Ability.READ_TEXT}),
        format="rapidocr",
    )


def whisper_folder(folder: Path) -> Finding:
    """A CTranslate2 folder; of those, Whisper is the one that is known."""
    with (folder / "model.bin").open("rb") as file:
        head = file.read(64)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        raise ConfigError(f"{folder / 'model.bin'} is not taken: {PICKLE}")
    # A uint32 version, a uint16 length, then the name of the model's specification.
    specification = head[6 : 6 + int.from_bytes(head[4:6], "little")].rstrip(b"\0")
    if specification != b"WhisperSpec":
        raise ConfigError(
            f"{folder} is a CTranslate2 folder, and not of a Whisper model ({specification[:40]!a})"
        )
    return Finding(
        weights=folder,
        suggested_name=folder_name(folder),
        what="Whisper model in CTranslate2 format",
        family=Family.AUDIO,
        abilities=_whisper_abilities(read_json(folder / "config.json")),
        format="ctranslate2",
    )


def sentence_transformers_folder(folder: Path) -> Finding:
    """A folder whose modules.json lists the parts of a sentence-transformers model."""
    modules = read_json(folder / "modules.json", expected=list)
    for module in modules:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not kind.startswith(("sentence_transformers.", "pylate.models.")):
            raise ConfigError(f"{folder} needs code of its own ({kind!r}), and code of models is never run")
    config = read_json(folder / "config.json")
    parameters = whole_safetensors(folder)
    return Finding(
        weights=folder,
        suggested_name=folder_name(folder),
        what=f"sentence-transformers model ({_type_of(config)}), {_count(parameters)} parameters",
        family=Family.EMBEDDING,
        abilities=frozenset({_sentence_ability(folder)}),
        format="safetensors",
    )


def transformers_folder(folder: Path) -> Finding:
    """A folder with config.json and safetensors; of those, models that write, see or speak are known."""
    config = read_json(folder / "config.json")
    parameters = whole_safetensors(folder)
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if (sees := _ability_to_see(names, config)) is not None:
        return Finding(
            weights=folder,
            suggested_name=folder_name(folder),
            what=f"{_type_of(config)} model for pictures in safetensors, {_count(parameters)} parameters",
            family=Family.VISION,
            abilities=frozenset({sees}),
            format="safetensors",
        )
    if any(name.endswith("ForSequenceClassification") for name in names):
        return Finding(
            weights=folder,
            suggested_name=folder_name(folder),
            what=f"{_type_of(config)} classifier of texts in safetensors, {_count(parameters)} parameters",
            family=Family.EMBEDDING,
            abilities=frozenset({_classifier_ability(config)}),
            format="safetensors",
        )
    if "VitsModel" in names:
        return Finding(
            weights=folder,
            suggested_name=folder_name(folder),
            what=f"{_type_of(config)} voice in safetensors, {_count(parameters)} parameters",
            family=Family.AUDIO,
            abilities=frozenset({Ability.SPEAK}),
            format="safetensors",
        )
    if "WhisperForConditionalGeneration" in names:
        return Finding(
            weights=folder,
            suggested_name=folder_name(folder),
            what=f"{_type_of(config)} model that hears, in safetensors, {_count(parameters)} parameters",
            family=Family.AUDIO,
            abilities=frozenset({Ability.TRANSCRIBE, Ability.TRANSLATE}),
            format="safetensors",
        )
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        shown = ", ".join(names)[:200] or "none named"
        raise ConfigError(
            f"{folder} is a transformers folder ({_type_of(config)}, architectures: {shown}) that no family "
            "takes: models of text, classifiers of texts and pictures, detectors, VITS voices, Whisper and, "
            "with modules.json, sentence-transformers models are known"
        )
    return Finding(
        weights=folder,
        suggested_name=folder_name(folder),
        what=f"{_type_of(config)} model in safetensors, {_count(parameters)} parameters",
        family=Family.LLM,
        abilities=_text_abilities(_has_chat_template(folder)),
        format="safetensors",
    )


def diffusers_folder(folder: Path) -> Finding:
    """A pipeline of diffusers: model_index.json, and a folder of weights for each part."""
    name = read_json(folder / "model_index.json").get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(f"{folder} needs code of its own, and code of models is never run")
    parts = sorted(folder.glob("*/*.safetensors"))
    if not parts:
        raise ConfigError(f"{folder} holds no .safetensors file: {PICKLE}")
    return Finding(
        weights=folder,
        suggested_name=folder_name(folder),
        what=f"{name[:80]} of diffusers, {_count(sum(map(count_parameters, parts)))} parameters",
        family=Family.VISION,
        abilities=_picture_abilities(name),
        format="diffusers",
    )


def _sentence_ability(folder: Path) -> Ability:
    """What has a vector for each token, or reads pairs, ranks documents."""
    about = folder / "config_sentence_transformers.json"
    kind = read_json(about).get("model_type") if about.is_file() else None
    ranks = kind in ("CrossEncoder", "MultiVectorEncoder", "ColBERT")
    return Ability.RERANK if ranks else Ability.EMBED


def _classifier_ability(config: dict[str, Any]) -> Ability:
    """Of one label is what ranks documents; of several, what tells texts apart."""
    labels = config.get("id2label")
    return Ability.RERANK if isinstance(labels, dict) and len(labels) == 1 else Ability.MODERATE


def read_json(path: Path, *, expected: type[Any] = dict) -> Any:
    """A JSON file whose top is of the expected type. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no {path.name} in {path.parent}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_JSON_BYTES:
        raise ConfigError(f"{path} is longer than {MAX_JSON_BYTES} bytes, which no config is")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, expected):
        kind = "an object" if expected is dict else "a list"
        raise ConfigError(f"{path} must hold {kind}, not {type(value).__name__}")
    return value


def folder_name(folder: Path) -> str:
    """The folder's name; for a snapshot in a Hugging Face cache, the repository's."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _ability_to_see(architectures: list[str], config: dict[str, Any]) -> Ability | None:
    if any(name.endswith("ForObjectDetection") for name in architectures):
        return Ability.DETECT
    classifies = any(name.endswith("ForImageClassification") for name in architectures)
    return Ability.CLASSIFY if classifies or config.get("model_type") in _CHOOSERS else None


def whole_safetensors(folder: Path) -> int:
    """The parameters in all weights of the folder. Raises ConfigError when a file is missing or broken."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sum(count_parameters(_beside(index, name)) for name in _listed_files(index))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no .safetensors file: {PICKLE}")
    return sum(count_parameters(file) for file in files)


def _listed_files(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{index} does not list the files of the weights")
    return sorted(set(names))


def _beside(index: Path, name: str) -> Path:
    path = index.with_name(Path(name).name)
    if path.name != name or not path.is_file():
        raise ConfigError(f"{index} lists {name[:200]!r}, which is not in {index.parent}")
    return path


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path).get("chat_template"))


def _text_abilities(has_chat_template: bool) -> frozenset[Ability]:
    complete = frozenset({Ability.COMPLETE})
    return complete | {Ability.CHAT} if has_chat_template else complete


def _picture_abilities(pipeline: str) -> frozenset[Ability]:
    """Which pipelines also begin from pictures, and which do nothing else, is told by their names alone."""
    generates, edits = frozenset({Ability.GENERATE_IMAGE}), frozenset({Ability.EDIT_IMAGE})
    if "Edit" in pipeline:
        return edits
    return generates | edits if pipeline.startswith(_ALSO_EDIT) else generates


def _vector_abilities(model: GgufModel) -> frozenset[Ability]:
    """Models that judge pairs have one number where others have a vector."""
    return frozenset({Ability.RERANK if model.ranks else Ability.EMBED})


def _whisper_abilities(config: dict[str, Any]) -> frozenset[Ability]:
    """English-only models have no language tokens, and cannot translate."""
    transcribe = frozenset({Ability.TRANSCRIBE})
    return transcribe | {Ability.TRANSLATE} if config.get("lang_ids") else transcribe


def _gguf_description(model: GgufModel, *, parameters: int) -> str:
    facts = [f"GGUF model of architecture {model.architecture[:80]}", f"{_count(parameters)} parameters"]
    if model.context_tokens is not None:
        facts.append(f"{model.context_tokens} tokens of context")
    text = ", ".join(facts)
    return f"{model.name[:100]}: {text}" if model.name else text


def _type_of(config: dict[str, Any]) -> str:
    return _shown(config.get("model_type"), "type unknown")


def _shown(value: object, otherwise: str) -> str:
    """A text out of a file that may hold anything, short enough to be shown."""
    return value[:80] if isinstance(value, str) else otherwise


def _count(parameters: int) -> str:
    """`135M`, `7.2B`."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            value = parameters / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(parameters)
