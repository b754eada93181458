"""Which variant runs, why, and what is said when none can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ekiben.catalog.choice import HOST, Candidate, choose
from ekiben.catalog.quality import bits_of, parameters_in
from ekiben.catalog.selection import Selection
from ekiben.contract.manifest import Manifest
from ekiben.contract.model import ModelSpec, Preference, SourceSpec, Variant
from ekiben.errors import EngineNotInstalled
from ekiben.plugins.discovery import BrokenPlugin, Plugin, Plugins

GB = 10**9
CPU, ANY = frozenset({HOST}), frozenset({HOST, "cuda"})
SMALL_GPU = {HOST: 64 * GB, "cuda:0": 10 * GB}
TWO_GPUS = {HOST: 64 * GB, "cuda:0": 10 * GB, "cuda:1": 12 * GB}
AUTO = Preference()


def variant(engine: str, quantization: str | None, format: str = "gguf", *adapters: str) -> Variant:
    source = {"kind": "local", "path": f"/{quantization}"}
    return Variant.model_validate(
        {
            "engine": engine,
            "format": format,
            "quantization": quantization,
            "source": source,
            "adapters": dict.fromkeys(adapters, source),
        }
    )


def small(quantization: str, gb: float | None, **known: object) -> Candidate:
    """A variant of an engine for the host alone."""
    return candidate(variant("small", quantization), gb, **known)


def large(quantization: str | None, gb: float | None, **known: object) -> Candidate:
    """A variant of an engine that can use a GPU."""
    return candidate(variant("large", quantization, "safetensors"), gb, **{"kinds": ANY, **known})


def candidate(variant: Variant, gb: float | None, **known: object) -> Candidate:
    need = None if gb is None else int(gb * GB)
    return Candidate(variant=variant, need_bytes=need, **known)  # type: ignore[arg-type]


TABLE: list[tuple[str, list[Candidate], Mapping[str, int], Preference, int, list[str]]] = [
    (
        "the only one",
        [small("q4_0", 2)],
        {HOST: 8 * GB},
        AUTO,
        0,
        ["the only one that can run (needs about 2.0 GB on cpu, where 8.0 GB may be used)"],
    ),
    (
        "the best quality that fits",
        [small("q4_0", 4), small("f16", 16), small("q8_0", 8)],
        {HOST: 10 * GB},
        AUTO,
        2,
        [
            "of lower quality than the chosen one",
            "too large: needs about 16.0 GB on cpu, where 10.0 GB may be used",
            "the best quality of those that fit (needs about 8.0 GB on cpu, where 10.0 GB may be used)",
        ],
    ),
    (
        "on the host engines come in the order of the spec",
        [small("q4_0", 4), large(None, 8, kinds=CPU)],
        {HOST: 64 * GB},
        AUTO,
        0,
        ["its engine comes first in the spec", "its engine comes later in the spec"],
    ),
    (
        "a GPU before the host",
        [small("q8_0", 4), large(None, 8)],
        SMALL_GPU,
        AUTO,
        1,
        ["it would run without a GPU", "it runs on a GPU (needs about 8.0 GB on cuda"],
    ),
    (
        "not a GPU that is too small",
        [small("q8_0", 4), large(None, 16)],
        SMALL_GPU,
        AUTO,
        0,
        ["it is the one that fits", "too large: needs about 16.0 GB on cuda, where 10.0 GB may be used"],
    ),
    (
        "several GPUs, of which each holds its share",
        [large("awq", 8), large(None, 20, spread=2), large(None, 24, spread=2), large(None, 1, spread=3)],
        TWO_GPUS,
        AUTO,
        1,
        [
            "of lower quality",
            "the best quality of those that fit (needs about 10.0 GB on each of 2 devices (cuda), where 10.0",
            "too large: needs about 12.0 GB on each of 2",
            "it goes over 3 devices (cuda), and there are 2",
        ],
    ),
    (
        "what is here already before what would be fetched",
        [small("q8_0", 8), small("q4_0", 4, here=True)],
        {HOST: 64 * GB},
        AUTO,
        1,
        ["its weights are not here, those of the chosen one are", "its weights are here"],
    ),
    (
        "nothing is known: as the spec has it",
        [small("q4_0", None), small("q8_0", None)],
        {HOST: 64 * GB},
        AUTO,
        0,
        ["it comes first in the spec (what it needs is not known before", "it comes later in the spec"],
    ),
    (
        "no budgets: as the spec has it",
        [small("q4_0", 4), small("q8_0", 8)],
        {},
        AUTO,
        0,
        ["it comes first in the spec (what there is to run on is not known)", "it comes later"],
    ),
    (
        "known to fit before unknown",
        [small("q8_0", None), small("q4_0", 4)],
        {HOST: 8 * GB},
        AUTO,
        1,
        ["what it needs is not known before its first start", "it is the one that fits"],
    ),
    (
        "nothing fits: what needs least, with the arithmetic",
        [small("q8_0", 8), small("q4_0", 4)],
        {HOST: 2 * GB},
        AUTO,
        1,
        [
            "too large, and larger than the chosen one: needs about 8.0 GB on cpu",
            "nothing fits, and this needs least: needs about 4.0 GB on cpu, where 2.0 GB may be used",
        ],
    ),
    (
        "an order is obeyed, though it does not fit",
        [small("q4_0", 4), small("Q8_0", 8)],
        {HOST: 5 * GB},
        Preference(quantization="q8-0"),
        1,
        ["not the quantization 'q8-0' that is preferred", "the quantization 'q8-0' that is preferred (needs"],
    ),
    (
        "an engine by order, of which the best fits",
        [small("f32", 4), large("fp8", 8), large(None, 16), large("int4", 4)],
        {HOST: 10 * GB},
        Preference(engine="large"),
        1,
        ["not the engine 'large'", "the best quality of those that fit", "too large", "of lower quality"],
    ),
    (
        "one that has all the adapters",
        [small("f16", 4), candidate(variant("other", "q4_0", "gguf", "tone"), 4)],
        {HOST: 64 * GB},
        AUTO,
        1,
        ["it lacks adapters that the model has", "it has all the adapters"],
    ),
    (
        "what is not installed is out",
        [small("f16", 1, obstacle="its engine is not installed"), small("q4_0", 1)],
        {HOST: 64 * GB},
        AUTO,
        1,
        ["its engine is not installed", "the only one that can run"],
    ),
    (
        "an engine without its device comes last",
        [large(None, 1, kinds=frozenset({"cuda"})), small("q4_0", 90)],
        {HOST: 8 * GB},
        AUTO,
        1,
        ["its engine runs on cuda as it is installed, which is not here", "nothing fits"],
    ),
]


@pytest.mark.parametrize(
    ("candidates", "budgets", "prefer", "expected", "reasons"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_variant_and_the_reasons(
    candidates: list[Candidate],
    budgets: Mapping[str, int],
    prefer: Preference,
    expected: int,
    reasons: list[str],
) -> None:
    choice = choose(candidates, prefer=prefer, budgets=budgets)
    assert choice.index == expected
    assert [verdict.chosen for verdict in choice.verdicts] == [i == expected for i in range(len(candidates))]
    for verdict, reason in zip(choice.verdicts, reasons, strict=True):
        assert verdict.reason.startswith(reason)


def test_names_of_quantizations_are_put_in_order() -> None:
    names = ["F32", "bf16", "q8_0", "Q6_K", "q5-k-m", "Q5_K_S", "q4_k_m", "Q4_1", "q4_0", "iq3_m", "Q2_K"]
    bits = [bits_of(variant("x", name)) for name in names]
    assert bits == sorted(bits, key=lambda value: -(value or 0))
    assert bits_of(variant("x", None, "safetensors")) == 16
    assert bits_of(variant("x", None, "onnx")) is None
    assert bits_of(variant("x", "shrunk")) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mistral-7b-instruct", 7e9),
        ("SmolLM2-135M", 135e6),
        ("qwen2.5-0.5b:q4", 5e8),
        ("org/Llama-3.1-70B", 70e9),
        ("mixtral-8x7b", None),
        ("whisper-base", None),
        ("30b-a3b", 30e9),
    ],
)
def test_a_models_name_may_tell_its_size(name: str, expected: float | None) -> None:
    assert parameters_in(name) == expected


# On a machine


def engine(plugin_id: str, *requires: str) -> Plugin:
    section = {"families": ["llm"], "abilities": ["chat"], "formats": ["gguf"]}
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


PLUGINS = Plugins(
    {
        "here": engine("here", "pytest>=1"),
        "absent": engine("absent", "no-such-package>=2", "pytest>=1"),
        "old": engine("old", "pytest>=9999"),
    },
    (BrokenPlugin("spoilt", "somebody", "written for API 9"),),
)


class Sizes:
    """Weights by the path that they came from."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self._sizes = sizes or {}

    def size_bytes(self, source: SourceSpec) -> int | None:
        return self._sizes.get(source.parameters["path"])


def spec(*engines: str, **changes: object) -> ModelSpec:
    variants = [
        {"format": "gguf", "engine": engine, "source": {"kind": "local", "path": f"/{index}"}}
        for index, engine in enumerate(engines)
    ]
    about = {"name": "m", "family": "llm", "abilities": ["chat"], "variants": variants}
    return ModelSpec.model_validate(about | changes)


@pytest.mark.parametrize(
    ("engines", "expected"),
    [(["here"], 0), (["absent", "here"], 1), (["unknown", "spoilt", "old", "here", "here"], 3)],
)
def test_the_first_variant_whose_engine_is_installed_runs(engines: list[str], expected: int) -> None:
    assert Selection(PLUGINS, Sizes()).choose(spec(*engines)) == expected


def test_needs_are_learned_or_expected_from_files_and_names() -> None:
    two = spec("here", "here", name="tiny-1b")
    quantized = [
        variant.model_copy(update={"quantization": name})
        for variant, name in zip(two.variants, ("f16", "q4_0"), strict=True)
    ]
    two = two.model_copy(update={"variants": tuple(quantized)})
    budgets = {HOST: 2 * GB}
    by_name = Selection(PLUGINS, Sizes(), budgets=lambda: budgets)
    assert by_name.choose(two) == 1
    assert by_name.explain(two).verdicts[0].reason.startswith("too large: needs about 2.3 GB")
    by_files = Selection(PLUGINS, Sizes({"/0": GB, "/1": GB}), budgets=lambda: budgets)
    assert by_files.choose(two) == 0
    learned = Selection(
        PLUGINS,
        Sizes({"/0": GB, "/1": GB}),
        budgets=lambda: budgets,
        learned=lambda spec, index: 3 * GB if index == 0 else None,
    )
    assert learned.choose(two) == 1


def test_only_the_device_of_the_setting_counts() -> None:
    selection = Selection(PLUGINS, Sizes({"/0": GB}), device=HOST, budgets=lambda: SMALL_GPU)
    assert "on cpu, where 64.0 GB" in selection.explain(spec("here")).verdicts[0].reason


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        (
            ["absent"],
            "the model 'm' needs the engine 'absent', which is not installed (missing: no-such-package>=2): "
            "run `ekiben engine install absent`",
        ),
        (
            ["unknown", "old", "absent", "old"],
            "the model 'm' needs the engine 'unknown' or 'old' or 'absent', which is not installed "
            "(missing: pytest>=9999): run `ekiben engine install old`",
        ),
        (["spoilt"], "the model 'm' needs the engine 'spoilt', which cannot be used: written for API 9"),
        (
            ["unknown"],
            "the model 'm' needs the engine 'unknown', and there is no such plugin here: "
            "install the package that brings it",
        ),
    ],
)
def test_when_nothing_is_installed_the_error_says_what_mends_it(engines: list[str], expected: str) -> None:
    with pytest.raises(EngineNotInstalled) as caught:
        Selection(PLUGINS, Sizes()).choose(spec(*engines))
    assert caught.value.message == expected
    assert (caught.value.status, caught.value.code) == (502, "engine_not_installed")


def test_an_engine_by_order_that_is_not_installed_is_the_one_that_is_told_of() -> None:
    wanted = spec("here", "absent", prefer={"engine": "absent"})
    with pytest.raises(EngineNotInstalled, match="needs the engine 'absent', which is not installed"):
        Selection(PLUGINS, Sizes()).choose(wanted)
    reasons = [verdict.reason for verdict in Selection(PLUGINS, Sizes()).explain(wanted).verdicts]
    assert reasons[0] == "not the engine 'absent' that is preferred"
    assert reasons[1] == "its engine is not installed: run `ekiben engine install absent`"
