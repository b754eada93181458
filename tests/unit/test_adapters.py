"""LoRA adapters: what is taken for one, which variants get it, and how the catalog keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.catalog.adapters import adapter_name, look_at_adapter, with_adapter, without_adapter
from ekiben.catalog.catalog import Catalog, Origin
from ekiben.catalog.inspect import spec_from_path
from ekiben.contract.manifest import Manifest
from ekiben.contract.model import ModelSpec
from ekiben.errors import ConfigError, Conflict, ModelNotFound
from ekiben.plugins.discovery import Plugin, Plugins, discover
from ekiben.store.database import Database
from tests.gguf_files import gguf, safetensors, write


def engine(plugin_id: str, formats: list[str], *, adapters: bool) -> Plugin:
    section = {"families": ["llm"], "abilities": ["chat", "complete"], "formats": formats}
    about = {"id": plugin_id, "kind": "engine", "api": 1, "name": plugin_id, "summary": "for tests"}
    manifest = Manifest.model_validate(
        about | {"object": f"ekiben_{plugin_id}.main:Thing", "engine": section | {"adapters": adapters}}
    )
    return Plugin(manifest, "tests", "1", Path("/nowhere"))


LOCAL = discover().sources()["local"]
PLUGINS = Plugins(
    {
        "small": engine("small", ["gguf"], adapters=True),
        "large": engine("large", ["safetensors", "gguf"], adapters=True),
        "plain": engine("plain", ["safetensors"], adapters=False),
        "local": LOCAL,
    }
)


def variant(engine: str, format: str) -> dict[str, Any]:
    return {"engine": engine, "format": format, "source": {"kind": "local", "path": "/base"}}


BASE = ModelSpec.model_validate(
    {
        "name": "base",
        "family": "llm",
        "abilities": ["chat"],
        "aliases": ["b"],
        "variants": [
            variant("small", "gguf"),
            variant("large", "safetensors"),
            variant("plain", "safetensors"),
        ],
    }
)


def peft(folder: Path, **config: object) -> Path:
    write(folder / "adapter_model.safetensors", safetensors())
    about = {"peft_type": "LORA", "base_model_name_or_path": "org/base"} | config
    write(folder / "adapter_config.json", json.dumps(about))
    return folder


def gguf_adapter(path: Path, kind: str = "lora") -> Path:
    return write(path, gguf({"general.type": "adapter", "adapter.type": kind}))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    database = Database.open("sqlite://")
    yield Catalog(database, PLUGINS)
    database.close()


def test_adapters_are_told_by_their_headers(tmp_path: Path) -> None:
    folder = peft(tmp_path / "Tone v2")
    found = look_at_adapter(folder)
    assert (found.path, found.format, found.made_for) == (folder, "peft", "org/base")
    assert adapter_name(folder) == "tone-v2"
    file = gguf_adapter(tmp_path / "Voice.LoRA.gguf")
    found = look_at_adapter(file)
    assert (found.path, found.format, found.made_for) == (file, "gguf", "llama")
    assert adapter_name(file) == "voice.lora"


def test_what_is_no_lora_adapter_is_refused(tmp_path: Path) -> None:
    cases = {
        peft(tmp_path / "ia3", peft_type="IA3"): "of the type 'IA3': only LORA",
        write(tmp_path / "model.gguf", gguf()): "holds a model, not an adapter",
        gguf_adapter(tmp_path / "c.gguf", "control_vector"): "of the type 'control_vector': only lora",
        write(tmp_path / "empty" / "x", "").parent: "there is no adapter_config.json",
        tmp_path / "nothing": "there is no adapter at",
    }
    pickled = peft(tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    for path, reason in (cases | {pickled: "is not taken"}).items():
        with pytest.raises(ConfigError, match=reason):
            look_at_adapter(path)


def test_an_adapter_that_is_added_as_a_model_is_met_with_the_right_option(tmp_path: Path) -> None:
    for path in (peft(tmp_path / "tone"), gguf_adapter(tmp_path / "voice.gguf")):
        with pytest.raises(ConfigError, match="add it with --adapter-of MODEL"):
            spec_from_path(path, plugins=PLUGINS)


def test_an_adapter_goes_beside_the_variants_that_take_its_format(tmp_path: Path) -> None:
    tone, voice = look_at_adapter(peft(tmp_path / "t")), look_at_adapter(gguf_adapter(tmp_path / "v.gguf"))
    both = with_adapter(with_adapter(BASE, "tone", tone, plugins=PLUGINS), "voice", voice, plugins=PLUGINS)
    assert [sorted(variant.adapters) for variant in both.variants] == [["voice"], ["tone"], []]
    assert both.names == ("base", "b", "base:tone", "base:voice")
    assert both.variants[1].adapters["tone"].parameters == {"path": str(tmp_path / "t")}
    assert without_adapter(without_adapter(both, "tone"), "voice") == BASE


def test_an_adapter_that_no_variant_takes_is_refused_with_the_reasons(tmp_path: Path) -> None:
    tone = look_at_adapter(peft(tmp_path / "t"))
    without_large = BASE.model_copy(update={"variants": (BASE.variants[0], BASE.variants[2])})
    reason = r"no variant that takes an adapter in the format peft \(small runs gguf; plain takes none\)"
    with pytest.raises(ConfigError, match=reason):
        with_adapter(without_large, "tone", tone, plugins=PLUGINS)
    with pytest.raises(ConfigError, match="'a/b' is not the name of an adapter"):
        with_adapter(BASE, "a/b", tone, plugins=PLUGINS)


def test_an_adapters_name_is_taken_once(tmp_path: Path) -> None:
    first, second = (look_at_adapter(peft(tmp_path / name)) for name in "ab")
    once = with_adapter(BASE, "tone", first, plugins=PLUGINS)
    with pytest.raises(Conflict, match="has an adapter 'tone' already"):
        with_adapter(once, "tone", second, plugins=PLUGINS)
    again = with_adapter(once, "tone", second, plugins=PLUGINS, replace=True)
    assert again.variants[1].adapters["tone"] == second.source


def test_the_catalog_finds_the_base_by_its_adapters_name(catalog: Catalog, tmp_path: Path) -> None:
    tone = look_at_adapter(peft(tmp_path / "t"))
    catalog.add(BASE)
    catalog.amend("b", lambda spec: with_adapter(spec, "tone", tone, plugins=PLUGINS))
    entry = catalog.get("base:tone")
    assert entry.spec.name == "base"
    assert entry.spec.adapter_of("base:tone") == "tone"
    named_so = BASE.model_copy(update={"name": "base:tone", "aliases": ()})
    with pytest.raises(Conflict, match="'base:tone' is taken: it is the adapter of the model 'base'"):
        catalog.add(named_so)
    catalog.amend("base:tone", lambda spec: without_adapter(spec, "tone"))
    with pytest.raises(ModelNotFound):
        catalog.get("base:tone")
    assert catalog.get("base").spec == BASE


def test_a_refused_amendment_changes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    tone = look_at_adapter(peft(tmp_path / "t"))
    catalog.add(BASE)
    catalog.add(BASE.model_copy(update={"name": "base:tone", "aliases": ()}))
    with pytest.raises(Conflict, match="'base:tone' is taken: it is the name of the model 'base:tone'"):
        catalog.amend("base", lambda spec: with_adapter(spec, "tone", tone, plugins=PLUGINS))
    assert catalog.get("base").spec == BASE


def test_a_built_in_model_is_changed_in_a_copy_until_that_is_removed() -> None:
    database = Database.open("sqlite://")
    catalog = Catalog(database, discover())
    before = catalog.get("whisper-base")
    changed = catalog.amend("whisper-base", lambda spec: spec.model_copy(update={"pinned": True}))
    assert (changed.origin, changed.spec.pinned, changed.spec.aliases) == (
        Origin.USER,
        True,
        before.spec.aliases,
    )
    assert Catalog(database, discover()).get("whisper-base") == changed
    back = catalog.amend("whisper-base", lambda spec: spec.model_copy(update={"pinned": False}))
    assert back == before
    catalog.add(changed.spec, replace=True)
    catalog.remove("whisper-base")
    assert catalog.get("whisper-base") == before
    database.close()
