"""Names that users give to models: what they stand for, what they may be, and that they stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.catalog.catalog import Catalog
from ekiben.contract.model import ModelSpec
from ekiben.errors import ConfigError, Conflict, ModelNotFound, NotFound
from ekiben.plugins.discovery import discover
from ekiben.store.database import Database, sqlite_url

PLUGINS = discover()
CHAT = "smollm2-135m-instruct"
WHISPER = "whisper-base"
GPT = "gpt-4o-mini"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(sqlite_url(tmp_path / "x.db"))
    yield database
    database.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database, PLUGINS)


def spec(name: str = "mine", *, adapters: tuple[str, ...] = (), aliases: tuple[str, ...] = ()) -> ModelSpec:
    variant = {"format": "safetensors", "engine": "vllm", "source": {"kind": "local", "path": "/x"}}
    given = {adapter: {"kind": "local", "path": f"/{adapter}.gguf"} for adapter in adapters}
    return ModelSpec.model_validate(
        {
            "name": name,
            "family": "llm",
            "abilities": ["chat"],
            "aliases": aliases,
            "variants": [variant | {"adapters": given}],
        }
    )


def test_an_alias_stands_for_its_model_also_after_a_restart(database: Database, catalog: Catalog) -> None:
    alias = catalog.set_alias(GPT, model=CHAT)
    assert (alias.name, alias.model) == (GPT, CHAT)
    for each in (catalog, Catalog(database, PLUGINS)):
        assert each.spec(GPT).name == CHAT
        assert each.meaning(GPT) == CHAT
        assert each.meaning(CHAT) == CHAT
        assert each.aliases() == [alias]


def test_it_can_be_set_to_another_model_and_removed(catalog: Catalog) -> None:
    catalog.set_alias(GPT, model=CHAT)
    catalog.set_alias(GPT, model=WHISPER)
    assert catalog.spec(GPT).name == WHISPER
    catalog.remove_alias(GPT)
    assert catalog.aliases() == []
    with pytest.raises(ModelNotFound):
        catalog.get(GPT)
    with pytest.raises(NotFound, match="no alias 'gpt-4o-mini'"):
        catalog.remove_alias(GPT)


def test_it_may_stand_for_an_adapter_and_is_given_by_any_name(catalog: Catalog) -> None:
    catalog.add(spec(adapters=("tiny",), aliases=("nick",)))
    assert catalog.set_alias("a", model="mine:tiny").model == "mine:tiny"
    assert catalog.set_alias("b", model="a").model == "mine:tiny"
    assert catalog.set_alias("c", model="nick").model == "mine"
    assert catalog.spec("b").adapter_of(catalog.meaning("b")) == "tiny"


@pytest.mark.parametrize("name", [CHAT, "mine", "nick", "mine:tiny"])
def test_names_of_models_are_no_aliases(catalog: Catalog, name: str) -> None:
    catalog.add(spec(adapters=("tiny",), aliases=("nick",)))
    with pytest.raises(Conflict, match="is taken"):
        catalog.set_alias(name, model=CHAT)
    assert catalog.aliases() == []


def test_names_of_aliases_are_no_models(catalog: Catalog) -> None:
    catalog.set_alias(GPT, model=CHAT)
    for wanted in (spec(GPT), spec("other", aliases=(GPT,))):
        for replace in (False, True):
            with pytest.raises(Conflict, match="is an alias of 'smollm2-135m-instruct'"):
                catalog.add(wanted, replace=replace)


def test_removing_an_alias_as_a_model_does_not_remove_its_model(catalog: Catalog) -> None:
    catalog.add(spec())
    catalog.set_alias(GPT, model="mine")
    with pytest.raises(Conflict, match="ekiben alias rm"):
        catalog.remove(GPT)
    assert catalog.spec("mine").name == "mine"


def test_an_alias_of_a_model_that_is_gone_says_so_until_it_is_back(catalog: Catalog) -> None:
    catalog.add(spec())
    catalog.set_alias(GPT, model="mine")
    catalog.remove("mine")
    with pytest.raises(ModelNotFound, match="stands for 'mine', which does not exist any more"):
        catalog.get(GPT)
    catalog.add(spec())
    assert catalog.spec(GPT).name == "mine"


@pytest.mark.parametrize("name", ["", "a b", "../x", "a..b", "x" * 129, "ü", "-a"])
def test_what_cannot_be_a_name_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an alias"):
        catalog.set_alias(name, model=CHAT)


def test_models_that_nobody_knows_have_no_aliases(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound):
        catalog.set_alias(GPT, model="no-such")
