"""What is made of a path: which model lies there, who can run it, and why something is not taken."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest

from ekiben.catalog.inspect import PICKLE_SUFFIXES, slug, spec_from_path
from ekiben.contract.manifest import Manifest
from ekiben.contract.model import NAME_PATTERN, Ability, Family, ModelSpec
from ekiben.errors import ConfigError
from ekiben.plugins.discovery import Plugin, Plugins, discover
from tests.gguf_files import gguf, safetensors, write

PLUGINS = discover()
WHISPER = b"\x06\0\0\0\x0c\0WhisperSpec\0" + b"\0" * 50
VOICE = json.dumps(
    {"audio": {"sample_rate": 16000}, "phoneme_id_map": {"a": [1]}, "language": {"code": "de_DE"}}
)
MODULES = json.dumps([{"idx": 0, "type": "sentence_transformers.models.Transformer"}])


def look(path: Path, name: str | None = None) -> ModelSpec:
    return spec_from_path(path, plugins=PLUGINS, name=name)


def refusal(path: Path, plugins: Plugins = PLUGINS) -> str:
    with pytest.raises(ConfigError) as caught:
        spec_from_path(path, plugins=plugins)
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_gguf_file_with_a_template_can_chat(tmp_path: Path) -> None:
    data = gguf({"general.file_type": 7, "tokenizer.chat_template": "x", "llama.context_length": 512})
    path = write(tmp_path / "Qwen 2.5_(Q8).gguf", data)
    spec = look(path)
    assert spec.name == "qwen-2.5_-q8"
    assert spec.family is Family.LLM
    assert spec.abilities == {Ability.CHAT, Ability.COMPLETE}
    assert spec.description == "GGUF model of architecture llama, 64 parameters, 512 tokens of context"
    (variant,) = spec.variants
    assert (variant.engine, variant.format, variant.quantization) == ("llama_cpp", "gguf", "Q8_0")
    assert variant.source.kind == "local"
    assert variant.source.parameters == {"path": str(path)}


def test_a_gguf_file_without_a_template_can_only_complete(tmp_path: Path) -> None:
    assert look(write(tmp_path / "m.gguf", gguf())).abilities == {Ability.COMPLETE}


def test_the_name_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", gguf())
    assert look(path, name="Mine").name == "Mine"
    with pytest.raises(ConfigError, match=r"'\.\./x' is not a model name"):
        look(path, name="../x")
    with pytest.raises(ConfigError, match="'' is not a model name"):
        look(path, name="")


def test_any_part_of_a_split_model_means_the_whole(tmp_path: Path) -> None:
    for n in (1, 2):
        write(tmp_path / f"big-{n:05}-of-00002.gguf", gguf())
    for path in (tmp_path / "big-00002-of-00002.gguf", tmp_path):
        spec = look(path)
        assert spec.name == "big"
        assert spec.variants[0].source.parameters == {"path": str(tmp_path / "big-00001-of-00002.gguf")}
        assert "128 parameters" in spec.description


def test_a_folder_with_one_gguf_model_is_that_model(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", gguf())
    write(tmp_path / "mmproj-m.gguf", gguf({"general.type": "mmproj"}))
    assert look(tmp_path).variants[0].source.parameters == {"path": str(path)}
    write(tmp_path / "other.gguf", gguf())
    assert "holds several GGUF models (m.gguf, mmproj-m.gguf, other.gguf)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "ability"),
    [
        ({"general.architecture": "nomic-bert"}, Ability.EMBED),
        ({"llama.pooling_type": 3}, Ability.EMBED),
        ({"llama.pooling_type": 4}, Ability.RERANK),
    ],
)
def test_an_embedding_model_in_gguf_embeds_or_reranks(
    tmp_path: Path, values: dict[str, int | str | list[str]], ability: Ability
) -> None:
    spec = look(write(tmp_path / "m.gguf", gguf(values)))
    assert spec.family is Family.EMBEDDING
    assert spec.abilities == {ability}
    assert spec.variants[0].engine == "llama_cpp"


@pytest.mark.parametrize("values", [{"general.type": "adapter"}, {"general.architecture": "clip"}])
def test_a_part_of_a_model_is_refused(tmp_path: Path, values: dict[str, int | str | list[str]]) -> None:
    assert "holds a part for another model" in refusal(write(tmp_path / "m.gguf", gguf(values)))


def test_a_sentence_transformers_folder_embeds(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path / "MiniLM")
    spec = look(folder)
    assert (spec.name, spec.family, *spec.abilities) == ("minilm", Family.EMBEDDING, Ability.EMBED)
    assert spec.variants[0].engine == "sentence_transformers"
    assert spec.description == "sentence-transformers model (bert), 64 parameters"


@pytest.mark.parametrize("kind", ["CrossEncoder", "MultiVectorEncoder", "ColBERT"])
def test_a_sentence_transformers_folder_may_rank(tmp_path: Path, kind: str) -> None:
    folder = sentence_transformers(tmp_path / "judge")
    write(folder / "config_sentence_transformers.json", json.dumps({"model_type": kind}))
    spec = look(folder)
    assert (*spec.abilities, spec.variants[0].engine) == (Ability.RERANK, "sentence_transformers")


@pytest.mark.parametrize(("labels", "ability"), [(1, Ability.RERANK), (6, Ability.MODERATE)])
def test_a_classifier_of_texts_ranks_or_moderates(tmp_path: Path, labels: int, ability: Ability) -> None:
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): f"LABEL_{index}" for index in range(labels)},
    }
    write(tmp_path / "judge" / "config.json", json.dumps(config))
    write(tmp_path / "judge" / "model.safetensors", safetensors())
    spec = look(tmp_path / "judge")
    assert (spec.family, *spec.abilities) == (Family.EMBEDDING, ability)
    assert spec.variants[0].engine == "sentence_transformers"


def sentence_transformers(folder: Path) -> Path:
    write(folder / "modules.json", MODULES)
    write(folder / "config.json", '{"model_type": "bert"}')
    write(folder / "model.safetensors", safetensors())
    return folder


def test_a_repository_in_a_hub_cache_has_the_name_of_the_repository(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path / "models--acme--Fancy-Embed" / "snapshots" / ("0" * 40))
    assert look(folder).name == "fancy-embed"


def test_code_in_a_model_is_never_run(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path)
    write(folder / "modules.json", json.dumps([{"type": "custom_st.Transformer"}]))
    assert "needs code of its own ('custom_st.Transformer'), and code of models is never run" in refusal(
        folder
    )


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("modules.json", "{}", "modules.json must hold a list, not dict"),
        ("modules.json", "[1]", "needs code of its own (None)"),
        ("config.json", "[", "config.json is not JSON"),
        ("config.json", "[" * 100_000, "config.json is not JSON"),
        ("config.json", "3", "config.json must hold an object, not int"),
        ("config.json", None, "there is no config.json in"),
        ("model.safetensors", b"\x80\x04", "broken safetensors file"),
        ("model.safetensors", None, "holds no .safetensors file: pickle weights can run any program"),
        ("model.safetensors.index.json", "{}", "does not list the files of the weights"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 1}}', "does not list the files"),
        ("model.safetensors.index.json", '{"weight_map": {"a": []}}', "does not list the files"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "b.safetensors"}}',
            "lists 'b.safetensors', which",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../m.safetensors"}}', "which is not in"),
    ],
)
def test_a_broken_folder_says_which_file_is_wrong(
    tmp_path: Path, file: str, content: str | bytes | None, expected: str
) -> None:
    folder = sentence_transformers(tmp_path / "m")
    write(tmp_path / "m.safetensors", safetensors())
    if content is None:
        (folder / file).unlink()
    else:
        write(folder / file, content)
    assert expected in refusal(folder)


def test_the_files_of_an_index_are_counted_once_each(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path)
    (folder / "model.safetensors").unlink()
    names = ["model-1.safetensors", "model-2.safetensors"]
    for name in names:
        write(folder / name, safetensors())
    weight_map = {"a": names[0], "b": names[0], "c": names[1]}
    write(folder / "model.safetensors.index.json", json.dumps({"weight_map": weight_map}))
    assert "128 parameters" in look(folder).description


def test_a_ctranslate2_whisper_folder_transcribes(tmp_path: Path) -> None:
    folder = whisper(tmp_path / "Whisper_Tiny", config='{"lang_ids": [1]}')
    spec = look(folder)
    assert (spec.name, spec.family) == ("whisper_tiny", Family.AUDIO)
    assert spec.abilities == {Ability.TRANSCRIBE, Ability.TRANSLATE}
    assert (spec.variants[0].engine, spec.variants[0].format) == ("faster_whisper", "ctranslate2")


def whisper(folder: Path, *, config: str = "{}", weights: bytes = WHISPER) -> Path:
    write(folder / "model.bin", weights)
    write(folder / "config.json", config)
    write(folder / "vocabulary.txt", "a")
    return folder


def test_an_english_only_whisper_does_not_translate(tmp_path: Path) -> None:
    assert look(whisper(tmp_path / "tiny.en")).abilities == {Ability.TRANSCRIBE}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (WHISPER.replace(b"Whisper", b"XXXXXXX"), "and not of a Whisper model (b'XXXXXXXSpec')"),
        (b"", "and not of a Whisper model"),
        (b"PK\x03\x04", "pickle weights can run any program"),
        (b"\x80\x04", "pickle weights can run any program"),
    ],
)
def test_another_model_bin_is_refused(tmp_path: Path, weights: bytes, expected: str) -> None:
    assert expected in refusal(whisper(tmp_path, weights=weights))


def test_a_piper_voice_speaks(tmp_path: Path) -> None:
    path = write(tmp_path / "de_DE-Eva.onnx", b"onnx")
    write(tmp_path / "de_DE-Eva.onnx.json", VOICE)
    for given in (path, tmp_path):
        spec = look(given)
        assert (spec.name, *spec.abilities) == ("de_de-eva", Ability.SPEAK)
        assert spec.description == "Piper voice, de_DE, 16000 Hz"
        assert spec.variants[0].source.parameters == {"path": str(path)}


@pytest.mark.parametrize(
    ("words", "abilities"),
    [(51864, {Ability.TRANSCRIBE}), (51865, {Ability.TRANSCRIBE, Ability.TRANSLATE})],
)
def test_openais_checkpoint_transcribes(tmp_path: Path, words: int, abilities: set[Ability]) -> None:
    path = tmp_path / "small.pt"
    measures = {"dims": {"n_mels": 80, "n_audio_ctx": 1500, "n_vocab": words, "n_text_ctx": 448}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(measures, protocol=2))
    spec = look(path)
    assert (spec.name, spec.family) == ("whisper-small", Family.AUDIO) and spec.abilities == abilities
    assert [(variant.engine, variant.format) for variant in spec.variants] == [("whisper", "whisper")]


def test_kokoro_voices_speak(tmp_path: Path) -> None:
    for folder, voices in (("loose", "voices/af_sky.bin"), ("packed", "voices-v1.0.bin")):
        for name in ("onnx/model.onnx", voices):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
        spec = look(tmp_path / folder)
        assert (spec.name, *spec.abilities) == (folder, Ability.SPEAK)
        assert spec.variants[0].engine == "kokoro"


def test_an_onnx_file_that_is_no_voice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.onnx", b"onnx")
    assert "is taken as a Piper voice, and its v.onnx.json is not beside it" in refusal(path)
    for config in ("{}", '{"audio": 3}', '{"audio": {"sample_rate": []}, "phoneme_id_map": {}}'):
        write(tmp_path / "v.onnx.json", config)
        assert "is not the config of a Piper voice" in refusal(path)
    write(tmp_path / "w.onnx", b"onnx")
    assert "holds several .onnx files (v.onnx, w.onnx)" in refusal(tmp_path)


def test_a_folder_of_ocr_models_reads_text(tmp_path: Path) -> None:
    for part in ("det", "rec"):
        write(tmp_path / f"ocr_{part}.onnx", b"onnx")
    spec = look(tmp_path)
    assert (spec.family, *spec.abilities) == (Family.VISION, Ability.READ_TEXT)
    assert spec.variants[0].engine == "rapidocr"


def transformers(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    write(folder / "config.json", json.dumps({"model_type": "llama", "architectures": [architecture]}))
    write(folder / "model.safetensors", safetensors())
    return folder


def test_a_folder_of_a_language_model_has_a_variant_for_each_engine(tmp_path: Path) -> None:
    spec = spec_from_path(transformers(tmp_path), plugins=PLUGINS)
    assert {variant.engine for variant in spec.variants} == {"transformers", "vllm"}
    assert {variant.format for variant in spec.variants} == {"safetensors"}


@pytest.mark.parametrize(
    ("architecture", "kind", "abilities"),
    [
        ("VitsModel", "vits", {Ability.SPEAK}),
        ("WhisperForConditionalGeneration", "whisper", {Ability.TRANSCRIBE, Ability.TRANSLATE}),
    ],
)
def test_a_folder_of_a_model_that_speaks_or_hears(
    tmp_path: Path, architecture: str, kind: str, abilities: set[Ability]
) -> None:
    transformers(tmp_path, architecture)
    write(tmp_path / "config.json", json.dumps({"model_type": kind, "architectures": [architecture]}))
    spec = look(tmp_path)
    assert spec.family is Family.AUDIO and spec.abilities == frozenset(abilities)
    assert [variant.engine for variant in spec.variants] == ["transformers"]


@pytest.mark.parametrize(
    ("architecture", "kind", "ability"),
    [
        ("ViTForImageClassification", "vit", Ability.CLASSIFY),
        ("CLIPModel", "clip", Ability.CLASSIFY),
        ("DetrForObjectDetection", "detr", Ability.DETECT),
    ],
)
def test_a_folder_of_a_model_that_sees(
    tmp_path: Path, architecture: str, kind: str, ability: Ability
) -> None:
    transformers(tmp_path, architecture)
    write(tmp_path / "config.json", json.dumps({"model_type": kind, "architectures": [architecture]}))
    spec = look(tmp_path)
    assert (spec.family, spec.abilities) == (Family.VISION, frozenset({ability}))
    assert [variant.engine for variant in spec.variants] == ["transformers"]


def test_a_folder_that_no_engine_takes_says_so(tmp_path: Path) -> None:
    only = Plugins({"llama_cpp": PLUGINS.usable["llama_cpp"]})
    with pytest.raises(ConfigError) as refused:
        spec_from_path(transformers(tmp_path), plugins=only)
    message = str(refused.value)
    assert (
        "no engine here can complete from the format safetensors (for llm there is: llama_cpp reads gguf)"
        in message
    )
    assert "architectures: BertModel) that no family takes" in refusal(transformers(tmp_path, "BertModel"))


def test_an_engine_of_somebody_else_counts(tmp_path: Path) -> None:
    plugins = Plugins({"theirs": engine("theirs"), "absent": engine("absent", "no-such-thing")})
    folder = transformers(tmp_path)
    write(folder / "tokenizer_config.json", '{"chat_template": "{{ messages }}"}')
    spec = spec_from_path(folder, plugins=plugins)
    assert spec.abilities == {Ability.CHAT, Ability.COMPLETE}
    assert [variant.engine for variant in spec.variants] == ["theirs", "absent"], "installed ones come first"


def engine(plugin_id: str, *requires: str) -> Plugin:
    section = {"families": ["llm"], "abilities": ["chat", "complete"], "formats": ["safetensors"]}
    manifest = Manifest.model_validate(
        {
            "id": plugin_id,
            "kind": "engine",
            "api": 1,
            "name": plugin_id,
            "summary": "for tests",
            "object": f"ekiben_{plugin_id}:Engine",
            "requires": requires,
            "engine": section,
        }
    )
    return Plugin(manifest, "tests", "1", Path("/nowhere"))


@pytest.mark.parametrize("suffix", sorted(PICKLE_SUFFIXES))
def test_pickle_weights_are_refused_with_the_reason(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"pytorch_model{suffix}", b"\x80\x04")
    write(tmp_path / "config.json", "{}")
    for given in (path, tmp_path):
        assert "pickle weights can run any program when they are loaded: convert them" in refusal(given)


def test_what_is_not_weights_is_refused(tmp_path: Path) -> None:
    assert "there is nothing at" in refusal(tmp_path / "none")
    assert "it holds no file" in refusal(tmp_path)
    assert "not a GGUF file" in refusal(write(tmp_path / "a.txt", "hello"))
    assert "it holds a.txt" in refusal(tmp_path)
    assert "read it as a model spec" in refusal(write(tmp_path / "a.yaml", "name: x"))
    assert "give its folder" in refusal(write(tmp_path / "a.safetensors", safetensors()))
    with pytest.raises(ConfigError, match="cannot be read"):
        look(Path("x" * 5000))
    with pytest.raises(ConfigError, match="there is nothing at"):
        look(Path("\0"))
    with pytest.raises(ConfigError, match="write an absolute path"):
        look(Path("~nobody-at-all/m.gguf"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    assert "is neither a file nor a folder" in refusal(path)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "sub" / "m.gguf", gguf())
    monkeypatch.chdir(path.parent)
    for given in (Path("m.gguf"), Path(), Path("../sub/m.gguf")):
        assert look(given).variants[0].source.parameters == {"path": str(path)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen3-0.6B", "qwen3-0.6b"),
        ("..a..b..", "a.b"),
        ("Ünï", "n"),
        ("日本", "model"),
        ("x" * 200, "x" * 128),
    ],
)
def test_a_slug_is_a_model_name(text: str, expected: str) -> None:
    assert slug(text) == expected
    assert NAME_PATTERN.fullmatch(slug(text))


def test_a_folder_of_timm_classifies(tmp_path: Path) -> None:
    config: dict[str, object] = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000}
    write(tmp_path / "config.json", json.dumps(config))
    write(tmp_path / "model.safetensors", safetensors())
    spec = look(tmp_path)
    assert (spec.family, spec.abilities) == (Family.VISION, frozenset({Ability.CLASSIFY}))
    assert [(variant.engine, variant.format) for variant in spec.variants] == [("timm", "timm")]
    write(tmp_path / "config.json", json.dumps(config | {"num_classes": 0}))
    assert "without classes" in refusal(tmp_path)
