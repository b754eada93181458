"""The catalog: who is found under which name, what may be added and removed, what is kept."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ekiben.catalog.catalog import BUILTIN_SINCE, BrokenEntry, Catalog, Entry, Origin
from ekiben.contract.model import ModelSpec
from ekiben.errors import ConfigError, Conflict, ModelNotFound
from ekiben.plugins.discovery import Plugins, discover
from ekiben.store.database import Database, sqlite_url
from ekiben.store.models import ModelStore

PLUGINS = discover()
BUILTIN = [
    "all-minilm-l6-v2",
    "digits-diffusion",
    "efficientnet-lite0",
    "piper-en-us-joe",
    "pp-ocr-v6",
    "smollm2-135m-instruct",
    "whisper-base",
]
ALIAS = "sentence-transformers/all-MiniLM-L6-v2"


class FixedClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.time.timestamp()

    def now(self) -> datetime:
        return self.time


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "empty.db"
    Database.open(sqlite_url(path)).close()
    return path


@pytest.fixture
def database(tmp_path: Path, empty: Path) -> Iterator[Database]:
    database = Database.open(sqlite_url(Path(shutil.copy(empty, tmp_path / "x.db"))))
    yield database
    database.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database, PLUGINS, clock=FixedClock())


def spec(name: str = "mine", *, path: str = "/weights/x.gguf", **changes: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": name,
            "family": "llm",
            "abilities": ["chat", "complete"],
            "variants": [
                {"format": "gguf", "engine": "llama_cpp", "source": {"kind": "local", "path": path}},
            ],
            **changes,
        }
    )


def names(catalog: Catalog) -> list[str]:
    return [entry.spec.name for entry in catalog.entries()]


def test_built_in_models_are_there_in_order(catalog: Catalog) -> None:
    assert names(catalog) == BUILTIN
    assert {entry.origin for entry in catalog.entries()} == {Origin.BUILTIN}
    assert {entry.created_at for entry in catalog.entries()} == {BUILTIN_SINCE}
    assert {entry.problem for entry in catalog.entries()} == {None}
    assert [spec.name for spec in catalog.specs()] == BUILTIN


def test_a_model_is_found_by_name_and_by_alias(catalog: Catalog) -> None:
    assert catalog.get("all-minilm-l6-v2") is catalog.get(ALIAS)
    assert catalog.spec(ALIAS).name == "all-minilm-l6-v2"


@pytest.mark.parametrize("name", ["nope", "", "ALL-MINILM", "../x", "a\nb", "x" * 10_000, "\ud800"])
def test_an_unknown_model_is_a_404_that_says_how_to_list(catalog: Catalog, name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog.get(name)
    assert "does not exist: list them with GET /v1/models or ekiben model ls" in caught.value.message
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert len(caught.value.message) < 500
    assert "\n" not in caught.value.message


def test_a_misspelt_model_is_met_with_the_right_name(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="did you mean 'whisper-base'"):
        catalog.get("wisper-base")


def test_an_added_model_is_there_also_after_a_restart(database: Database, catalog: Catalog) -> None:
    given = spec(aliases=["my-alias"], keep_alive="never", description="ü😀", license="MIT")
    added = catalog.add(given)
    assert added == Entry(given, Origin.USER, datetime(2026, 5, 1, tzinfo=UTC))
    assert names(catalog) == sorted([*BUILTIN, "mine"])
    again = Catalog(database, PLUGINS)
    assert again.get("my-alias") == added
    assert again.entries() == catalog.entries()


@pytest.mark.parametrize(
    ("name", "aliases", "expected"),
    [
        ("whisper-base", [], "'whisper-base' is taken: it is the name of the built-in model 'whisper-base'"),
        (ALIAS, [], "is taken: it is the alias of the built-in model 'all-minilm-l6-v2': choose another"),
        ("new", ["whisper-base"], "'whisper-base' is taken: it is the name of the built-in model"),
        ("new", [ALIAS], "is taken: it is the alias of the built-in model"),
        ("new", ["first"], "'first' is taken: it is the name of the model 'first'"),
        ("new", ["first-alias"], "'first-alias' is taken: it is the alias of the model 'first'"),
        ("first-alias", [], "'first-alias' is taken: it is the alias of the model 'first'"),
        ("first", [], "a model 'first' was added already: replace it, or choose another name"),
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_a_taken_name_is_refused(
    catalog: Catalog, name: str, aliases: list[str], expected: str, replace: bool
) -> None:
    catalog.add(spec("first", aliases=["first-alias"]))
    before = catalog.entries()
    if replace and ("was added already" in expected or name == "whisper-base"):
        assert catalog.add(spec(name, path="/other"), replace=True).spec.name == name
        return
    with pytest.raises(Conflict) as caught:
        catalog.add(spec(name, aliases=aliases), replace=replace)
    assert expected in caught.value.message
    assert catalog.entries() == before


def test_a_replaced_model_keeps_its_date_and_may_keep_its_aliases(database: Database) -> None:
    clock = FixedClock()
    catalog = Catalog(database, PLUGINS, clock=clock)
    first = catalog.add(spec(aliases=["a", "b"]))
    clock.time = datetime(2026, 6, 1, tzinfo=UTC)
    second = catalog.add(spec(aliases=["b", "c"], path="/other"), replace=True)
    assert second.created_at == first.created_at
    assert catalog.get("c").spec.variants[0].source.parameters == {"path": "/other"}
    with pytest.raises(ModelNotFound):
        catalog.get("a")
    assert Catalog(database, PLUGINS).entries() == catalog.entries()


def test_a_spec_that_no_plugin_honours_is_refused(catalog: Catalog) -> None:
    wrong = spec(
        variants=[{"format": "gguf", "engine": "lama_cpp", "source": {"kind": "local", "path": "/x"}}]
    )
    with pytest.raises(
        ConfigError, match=r"the model 'mine': variants\.0\.engine 'lama_cpp' is not a known engine"
    ):
        catalog.add(wrong)
    assert names(catalog) == BUILTIN


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), b"\xff", object()])
def test_values_that_cannot_be_stored_are_refused(catalog: Catalog, value: object) -> None:
    source = {"kind": "pypi", "files": [value]}
    unstorable = spec(variants=[{"format": "gguf", "engine": "llama_cpp", "source": source}])
    with pytest.raises(ConfigError, match="has values that cannot be stored: use plain texts and numbers"):
        catalog.add(unstorable)
    assert names(catalog) == BUILTIN


def test_an_added_model_can_be_removed_by_any_of_its_names(database: Database, catalog: Catalog) -> None:
    for name in ("mine", "my-alias"):
        entry = catalog.add(spec(aliases=["my-alias"]))
        assert catalog.remove(name) == entry
        assert names(catalog) == BUILTIN
        assert names(Catalog(database, PLUGINS)) == BUILTIN


def test_what_is_built_in_or_unknown_cannot_be_removed(catalog: Catalog) -> None:
    for name in ("all-minilm-l6-v2", ALIAS):
        with pytest.raises(
            Conflict, match="the model 'all-minilm-l6-v2' is built in: only added models can be"
        ):
            catalog.remove(name)
    with pytest.raises(ModelNotFound):
        catalog.remove("nope")
    assert names(catalog) == BUILTIN


def test_a_model_whose_engine_is_gone_is_kept_and_shown_with_the_reason(
    database: Database, catalog: Catalog
) -> None:
    catalog.add(spec())
    fewer = Plugins({i: p for i, p in PLUGINS.usable.items() if i != "llama_cpp"})
    later = Catalog(database, fewer)
    problem = later.get("mine").problem
    assert problem is not None
    assert problem.startswith("variants.0.engine 'llama_cpp' is not a known engine (known: ")
    assert later.get("smollm2-135m-instruct").problem is not None
    assert later.get("whisper-base").problem is None
    later.remove("mine")
    assert "mine" not in names(later)


def test_a_stored_spec_that_cannot_be_read_harms_no_other(database: Database, catalog: Catalog) -> None:
    catalog.add(spec())
    store = ModelStore(database)
    now = datetime(2026, 5, 1, tzinfo=UTC)
    store.put("future", spec='{"name": "future", "family": "video"}', now=now)
    store.put("torn", spec='{"name": "to', now=now)
    catalog.reload()
    assert names(catalog) == sorted([*BUILTIN, "mine"])
    future, torn = catalog.broken()
    assert (future.name, torn.name) == ("future", "torn")
    assert future.reason.startswith("family: ")
    assert "JSON" in torn.reason
    with pytest.raises(
        ConfigError, match=r"the stored spec of the model 'torn' cannot be read .*: add it again"
    ):
        catalog.get("torn")
    with pytest.raises(Conflict, match="a model 'torn' was added already"):
        catalog.add(spec("torn"))
    assert catalog.add(spec("torn"), replace=True).spec.name == "torn"
    assert catalog.remove("future") == BrokenEntry("future", future.reason, now)
    assert catalog.broken() == []


def test_a_name_that_a_new_version_brings_stays_the_users(database: Database) -> None:
    ModelStore(database).put(
        "whisper-base", spec=spec("whisper-base", aliases=[ALIAS]).model_dump_json(), now=BUILTIN_SINCE
    )
    catalog = Catalog(database, PLUGINS)
    assert catalog.get("whisper-base").origin is Origin.USER
    assert catalog.get(ALIAS).spec.name == "whisper-base"
    assert names(catalog) == BUILTIN
    catalog.remove("whisper-base")
    assert catalog.get("whisper-base").origin is Origin.BUILTIN
    assert catalog.get(ALIAS).spec.name == "all-minilm-l6-v2"


def test_what_another_process_added_is_seen_after_reload(database: Database, catalog: Catalog) -> None:
    Catalog(database, PLUGINS).add(spec())
    assert names(catalog) == BUILTIN
    catalog.reload()
    assert "mine" in names(catalog)


def test_asking_does_not_touch_the_database(database: Database, catalog: Catalog) -> None:
    catalog.add(spec())
    database.close()
    begun = time.perf_counter()
    for _ in range(10_000):
        catalog.get("mine")
    assert time.perf_counter() - begun < 1


def test_of_many_who_want_one_name_exactly_one_gets_it(catalog: Catalog) -> None:
    outcomes: list[str] = []

    def add(n: int) -> None:
        try:
            outcomes.append(catalog.add(spec(f"m{n}", aliases=["wanted"])).spec.name)
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["refused"] * 7
    assert len(catalog.entries()) == len(BUILTIN) + 1
