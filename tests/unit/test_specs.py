"""Specs from YAML: what is accepted, and where exactly each error points."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ekiben.catalog.document import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES
from ekiben.catalog.specs import (
    builtin_specs,
    did_you_mean,
    load_spec_file,
    load_spec_files,
    parse_spec,
    parse_specs,
    resolve_model,
    spec_problems,
)
from ekiben.contract.manifest import Manifest
from ekiben.contract.model import Ability, Family, ModelSpec
from ekiben.errors import ConfigError
from ekiben.plugins.discovery import BrokenPlugin, Plugin, Plugins, discover


def plugin(plugin_id: str, kind: str, **section: object) -> Plugin:
    manifest = Manifest.model_validate(
        {
            "id": plugin_id,
            "kind": kind,
            "api": 1,
            "name": plugin_id,
            "summary": "for tests",
            "object": f"ekiben_{plugin_id}.main:Thing",
            kind: section,
        }
    )
    return Plugin(manifest, "tests", "1", Path("/nowhere"))


PLUGINS = Plugins(
    {
        "writer": plugin(
            "writer",
            "engine",
            families=["llm"],
            abilities=["chat", "complete"],
            formats=["gguf"],
            companions={"mmproj": "reads pictures"},
            options={
                "context": {"type": "integer", "help": "tokens", "minimum": 128},
                "mode": {"type": "string", "help": "how", "choices": ["fast", "slow"]},
                "chat_template": {"type": "string", "help": "Jinja"},
            },
        ),
        "disk": plugin(
            "disk",
            "source",
            parameters={"path": {"type": "string", "help": "where", "required": True}},
        ),
        "local": plugin(
            "local",
            "source",
            parameters={"path": {"type": "string", "help": "where", "required": True}},
        ),
    },
    (BrokenPlugin("spoilt", "somebody", "its manifest is not TOML"),),
)

GOOD = """\
name: tiny
family: llm
abilities: [chat, complete]
keep_alive: 90s
variants:
  - format: gguf
    engine: writer
    source:
      kind: disk
      path: /weights/tiny.gguf
    options:
      context: 2048
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_specs(text, filename="models.yaml", plugins=PLUGINS)
    return caught.value.message.split("\n")


def test_a_good_spec_is_read() -> None:
    spec = parse_spec(GOOD, filename="models.yaml", plugins=PLUGINS)
    assert spec.name == "tiny"
    assert spec.family is Family.LLM
    assert spec.abilities == {Ability.CHAT, Ability.COMPLETE}
    assert spec.keep_alive == 90
    assert spec.variants[0].source.parameters == {"path": "/weights/tiny.gguf"}
    assert spec.variants[0].options == {"context": 2048}


def test_a_spec_written_back_as_json_is_the_same_spec() -> None:
    spec = parse_spec(GOOD.replace("90s", "never"), filename="models.yaml", plugins=PLUGINS)
    assert parse_spec(spec.model_dump_json(), filename="again.json", plugins=PLUGINS) == spec


def test_json_with_escaped_pairs_of_surrogates_is_read() -> None:
    value = {**json.loads(spec_json()), "description": "😀"}
    text = json.dumps(value)
    assert "\\ud83d" in text
    assert parse_spec(text, filename="x.json", plugins=PLUGINS).description == "😀"


def spec_json() -> str:
    return parse_spec(GOOD, filename="models.yaml", plugins=PLUGINS).model_dump_json()


def test_a_file_may_hold_several_specs() -> None:
    both = json.dumps([json.loads(spec_json()), {**json.loads(spec_json()), "name": "other"}])
    assert [spec.name for spec in parse_specs(both, filename="x", plugins=PLUGINS)] == ["tiny", "other"]
    with pytest.raises(ConfigError, match="x:1:1: holds 2 specs where one is expected"):
        parse_spec(both, filename="x", plugins=PLUGINS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("context: 2048", "context: x"),
            "models.yaml:12:16: variants.0.options.context must be of type integer, not 'x'",
        ),
        (
            ("context: 2048", "contekst: 1"),
            "models.yaml:12:7: variants.0.options.contekst is not known here (known: chat_template, ",
        ),
        (
            ("context: 2048", "context: 1"),
            "models.yaml:12:16: variants.0.options.context must be at least 128, not 1",
        ),
        (
            ("name: tiny", "name: ../tiny"),
            "models.yaml:1:7: name is wrong: '../tiny' is not a model name: up to 128 letters, digits and "
            ". _ : / -, beginning with a letter or digit",
        ),
        (("name: tiny\n", ""), "models.yaml:1:1: name is required"),
        (("90s", "soon"), "models.yaml:4:13: keep_alive is wrong: 'soon' is not a duration"),
        (
            ("keep_alive: 90s", "prewarm: ['0 8 * * 1-5', 61 * * * *]"),
            "models.yaml:4:1: prewarm is wrong: '61 * * * *' is not a cron line (bad minute)",
        ),
        (("[chat, complete]", "[chat, fly]"), "models.yaml:3:19: abilities.1 must be 'chat', 'complete'"),
        (("[chat, complete]", "[]"), "models.yaml:3:1: abilities must not be empty"),
        (
            ("[chat, complete]", "[chat, embed]"),
            "models.yaml:3:1: abilities do not fit: family llm cannot embed",
        ),
        (
            ("family: llm", "famly: llm"),
            "models.yaml:2:1: famly is not known here (known: name, family, abilities, description, license, "
            "aliases, variants, keep_alive, replicas, pinned, prewarm, batch_target, prefer, "
            "chat_template): did you mean 'family'?",
        ),
        (("    engine: writer\n", ""), "models.yaml:6:5: variants.0.engine is required"),
        (
            ("engine: writer", "engine: writter"),
            "models.yaml:7:13: variants.0.engine 'writter' is not a known engine (known: writer): "
            "did you mean 'writer'?",
        ),
        (
            ("engine: writer", "engine: spoilt"),
            "models.yaml:7:13: variants.0.engine names the plugin 'spoilt', which cannot be used: "
            "its manifest is not TOML",
        ),
        (
            ("format: gguf", "format: onnx"),
            "models.yaml:6:13: variants.0.format must be one that writer reads (gguf), not 'onnx'",
        ),
        (
            ("kind: disk", "kind: disc"),
            "models.yaml:9:13: variants.0.source.kind 'disc' is not a known source (known: disk, local): "
            "did you mean 'disk'?",
        ),
        (
            ("path: /weights/tiny.gguf", "path: 3"),
            "models.yaml:10:13: variants.0.source.path must be of type",
        ),
        (("      path: /weights/tiny.gguf\n", ""), "models.yaml:8:5: variants.0.source.path is required"),
        (
            ("keep_alive: 90s", "aliases: [small, small]"),
            "models.yaml:4:18: aliases.1 'small' is given twice",
        ),
        (("keep_alive: 90s", "batch_target: 0s"), "models.yaml:4:15: batch_target is wrong: a batch takes"),
        (("keep_alive: 90s", "license: 3"), "models.yaml:4:10: license must be a text, not 3"),
        (
            ("keep_alive: 90s", "prefer: {engine: writter}"),
            "models.yaml:4:18: prefer.engine 'writter' is that of no variant (there are: writer): "
            "did you mean 'writer'?",
        ),
        (
            ("keep_alive: 90s", "chat_template: chat.jinja"),
            "models.yaml:4:16: chat_template is no template: that has {{ }} or {% %} in it",
        ),
        (
            ("keep_alive: 90s", "chat_template: '{% for x in %}'"),
            "models.yaml:4:16: chat_template cannot be used: the template is wrong in line 1: Expected an",
        ),
        (
            ("context: 2048", "chat_template: \"{{ 'a' * 999999999 }}\""),
            "models.yaml:12:22: variants.0.options.chat_template cannot be used: the chat template was",
        ),
        (
            ("keep_alive: 90s", "prefer: {speed: fast}"),
            "models.yaml:4:10: prefer.speed is not known here (known: engine, quantization)",
        ),
        (("context: 2048", "mode: medium"), "models.yaml:12:13: variants.0.options.mode must be one of fast"),
        (
            (
                "    options:\n      context",
                "    companions:\n      mmproy: {kind: disk, path: /p}\n    options: {}\n#",
            ),
            "models.yaml:12:7: variants.0.companions.mmproy is nothing that writer takes (known: mmproj): "
            "did you mean 'mmproj'?",
        ),
        (
            (
                "    options:\n      context",
                "    companions:\n      mmproj: {kind: disk}\n    options: {}\n#",
            ),
            "models.yaml:12:7: variants.0.companions.mmproj.path is required",
        ),
        (
            (
                "    options:\n      context",
                "    adapters:\n      tone: {kind: disk, path: /p}\n    options: {}\n#",
            ),
            "models.yaml:11:5: variants.0.adapters cannot be served: writer takes no adapters",
        ),
        (
            (
                "    options:\n      context",
                "    adapters:\n      a/b: {kind: disk, path: /p}\n    options: {}\n#",
            ),
            "models.yaml:11:5: variants.0.adapters is wrong: 'a/b' is not the name of an adapter",
        ),
    ],
)
def test_an_error_points_at_its_line_and_column(change: tuple[str, str], expected: str) -> None:
    assert change[0] in GOOD
    assert any(line.startswith(expected) for line in problems_of(GOOD.replace(*change)))


def test_an_ability_that_the_engine_lacks_is_refused() -> None:
    text = GOOD.replace("family: llm", "family: audio").replace("[chat, complete]", "[speak]")
    expected = "variants.0.engine 'writer' does not fit: it runs models of the families llm, not of audio"
    assert problems_of(text) == [f"models.yaml:7:13: {expected}"]
    chat_only = plugin("writer", "engine", families=["llm"], abilities=["complete"], formats=["gguf"])
    plugins = Plugins({**PLUGINS.usable, "writer": chat_only})
    with pytest.raises(ConfigError, match=r"it cannot chat, only complete"):
        parse_spec(GOOD, filename="models.yaml", plugins=plugins)


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("2048", "x").replace("gguf\n    engine", "onnx\n    engine").replace("disk", "disc")
    lines = [int(line.split(":")[1]) for line in problems_of(text)]
    assert lines == [6, 9, 12]


def test_in_a_list_errors_point_into_the_right_item() -> None:
    one, two = (f"- {GOOD.replace(chr(10), chr(10) + '  ').rstrip()}\n" for _ in range(2))
    found = problems_of(one.replace("tiny", "first") + two.replace("context: 2048", "context: x"))
    assert found == ["models.yaml:24:18: 1.variants.0.options.context must be of type integer, not 'x'"]
    assert problems_of(one + two)[0].startswith("models.yaml:1:9: 0.name 'tiny' is the name of more than one")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "models.yaml:1:1: the file is empty: it must hold a model spec"),
        ("# nothing\n", "models.yaml:1:1: the file is empty: it must hold a model spec"),
        ("[]", "models.yaml:1:1: the list is empty: it must hold model specs"),
        ("name: a\nfamily: [llm", "models.yaml:2:13: expected ',' or ']', but got '<stream end>'"),
        ("name: a\n\tfamily: llm", "models.yaml:2:1: found character '\\t' that cannot start any token"),
        ("name: a\nname: b", "models.yaml:2:1: the key 'name' stands here twice"),
        ("name: a\n---\nname: b", "models.yaml:2:1: but found another document"),
        ("a: &x [1]\nb: *x", "models.yaml:1:4: anchors and aliases are not used here: write the value out"),
        ("a: !!python/object/apply:os.system [ls]", "models.yaml:1:4: the tag 'tag:yaml.org,2002:python"),
        ("a: !thing 1", "models.yaml:1:4: the tag '!thing' is not used here: leave it out"),
        ("<<: {a: 1}", "models.yaml:1:1: << is not known here"),
        ("1: x", "models.yaml:1:1: a key must be a text, not '1': put it in quotes"),
        ("? [a]\n: x", "models.yaml:1:3: a key must be a text, not a list or mapping"),
        ("a: .nan", "models.yaml:1:4: .nan is not a finite number"),
        ("a: .inf", "models.yaml:1:4: .inf is not a finite number"),
        ('a: "\\ud800"', "models.yaml:1:4: the text holds a control character or half a surrogate pair"),
        ('a: "\\0"', "models.yaml:1:4: the text holds a control character or half a surrogate pair"),
        ("a: b\nc: \x07", "models.yaml:2:4: the character '\\x07' is not allowed in YAML"),
        (f"a: {'9' * 5000}", "models.yaml:1:4: '999"),
        ("just a text", "models.yaml:1:1: must be a model spec, a mapping with `name:` and more"),
        ("[" * 10_000, f"models.yaml:1:{MAX_DEPTH + 1}: nested more than {MAX_DEPTH} levels deep"),
        ("a: " + "{a: " * 10_000, f"nested more than {MAX_DEPTH} levels deep"),
        ("- " * 10_000, f"nested more than {MAX_DEPTH} levels deep"),
        ("- a\n" * 20_000, f"more than {MAX_VALUES} values, which no model spec needs"),
        ("\n".join(f"k{n}: 1" for n in range(4000)), "models.yaml: and more: mend these first"),
        ("x" * (MAX_CHARACTERS + 1), f"models.yaml: longer than {MAX_CHARACTERS} characters"),
    ],
)
def test_yaml_that_is_broken_or_hostile_is_refused_with_its_place(text: str, expected: str) -> None:
    begun = time.monotonic()
    lines = problems_of(text)
    assert any(expected in line for line in lines)
    assert sum(map(len, lines)) < 20_000
    assert time.monotonic() - begun < 5


def test_a_date_or_a_version_stays_a_text() -> None:
    text = GOOD.replace("/weights/tiny.gguf", "2024-01-01").replace("90s", "1h")
    spec = parse_spec(text, filename="x", plugins=PLUGINS)
    assert spec.variants[0].source.parameters == {"path": "2024-01-01"}


YAML_PIECES = st.sampled_from(
    [
        *"{}[]:-,&*!|>'\"%@`#?\n\t \\~",
        "  ",
        "- ",
        ": ",
        "name",
        "variants",
        "<<",
        "!!",
        "---\n",
        "\x85",
        "\ufeff",
    ]
)


@given(
    st.one_of(
        st.lists(st.one_of(YAML_PIECES, st.text(max_size=5)), max_size=60).map("".join), st.text()
    ).filter(lambda text: not text.isspace())
)
@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_raises_anything_but_a_config_error_with_its_file(text: str) -> None:
    try:
        parse_specs(text, filename="f.yaml", plugins=PLUGINS)
    except ConfigError as error:
        assert re.match(r"f\.yaml(:\d+:\d+)?: ", error.message), error.message


@given(st.integers(0, len(GOOD) - 1), st.text(max_size=3), st.integers(0, 30))
@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
def test_no_change_of_a_good_spec_raises_anything_but_a_config_error(at: int, text: str, cut: int) -> None:
    try:
        parse_specs(GOOD[:at] + text + GOOD[at + cut :], filename="f.yaml", plugins=PLUGINS)
    except ConfigError as error:
        for line in error.message.split("\n"):
            match = re.match(r"f\.yaml:(\d+):(\d+): ", line)
            assert match is not None
            assert 1 <= int(match[1]) <= GOOD.count("\n") + text.count("\n") + 2


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(GOOD.replace("2048", "x"))
    with pytest.raises(ConfigError, match=re.escape(f"{path}:12:16: variants.0.options.context")):
        load_spec_file(path, plugins=PLUGINS)
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"is not a text file in UTF-8: .* at byte 6"):
        load_spec_file(path, plugins=PLUGINS)
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_spec_file(tmp_path / "none.yaml", plugins=PLUGINS)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_spec_file(tmp_path, plugins=PLUGINS)


def test_a_relative_path_of_local_weights_counts_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    local = GOOD.replace("kind: disk", "kind: local")
    path.write_text(local.replace("/weights/tiny.gguf", "../tiny.gguf"))
    (spec,) = load_spec_files(path, plugins=PLUGINS)
    assert spec.variants[0].source.parameters == {"path": str(tmp_path.parent / "tiny.gguf")}
    assert load_spec_file(path, plugins=PLUGINS) == spec
    for kept in ("~/tiny.gguf", "/weights/tiny.gguf"):
        path.write_text(local.replace("/weights/tiny.gguf", kept))
        assert load_spec_file(path, plugins=PLUGINS).variants[0].source.parameters == {"path": kept}
    path.write_text(local + "    companions:\n      mmproj: {kind: local, path: eyes.gguf}\n")
    (companion,) = load_spec_file(path, plugins=PLUGINS).variants[0].companions.values()
    assert companion.parameters == {"path": str(tmp_path / "eyes.gguf")}


def test_a_chat_template_may_lie_beside_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    (tmp_path / "chat.jinja").write_text("{{ messages[0]['content'] }}")
    path.write_text(GOOD + "chat_template: chat.jinja\n")
    assert load_spec_file(path, plugins=PLUGINS).chat_template == "{{ messages[0]['content'] }}"
    path.write_text(GOOD.replace("context: 2048", "chat_template: chat.jinja"))
    (variant,) = load_spec_file(path, plugins=PLUGINS).variants
    assert variant.options["chat_template"] == "{{ messages[0]['content'] }}"
    path.write_text(GOOD + "chat_template: none.jinja\n")
    with pytest.raises(ConfigError, match=r"none.jinja cannot be read: No such file"):
        load_spec_file(path, plugins=PLUGINS)
    (tmp_path / "none.jinja").write_bytes(b"{{ x }}" + b" " * 2**18)
    with pytest.raises(ConfigError, match="is larger than"):
        load_spec_file(path, plugins=PLUGINS)
    (tmp_path / "none.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(ConfigError, match="is not a text in UTF-8"):
        load_spec_file(path, plugins=PLUGINS)


def test_a_template_that_refuses_a_trial_is_the_users_affair() -> None:
    spec = GOOD + "chat_template: \"{{ raise_exception('no system prompt') }}\"\n"
    assert parse_spec(spec, filename="x", plugins=PLUGINS).chat_template is not None


def test_the_built_in_specs_suit_the_plugins_that_come_along() -> None:
    plugins = discover()
    specs = builtin_specs(plugins)
    assert [spec.name for spec in specs] == [
        "all-minilm-l6-v2",
        "digits-diffusion",
        "efficientnet-lite0",
        "piper-en-us-joe",
        "pp-ocr-v6",
        "smollm2-135m-instruct",
        "whisper-base",
    ]
    assert {spec.name: [str(p) for p in spec_problems(spec, plugins)] for spec in specs} == {
        spec.name: [] for spec in specs
    }
    assert {spec.family for spec in specs} == set(Family)


def test_every_built_in_file_is_pinned_by_version_and_hash_or_comes_along() -> None:
    for spec in builtin_specs(discover()):
        for variant in spec.variants:
            if variant.source.kind == "local":
                assert list(Path(variant.source.parameters["path"]).glob("**/*.safetensors"))
                continue
            given_here = variant.source.parameters
            for file in given_here["files"]:
                assert re.fullmatch(r"[0-9a-f]{64}", file["sha256"]), file["path"]
                for part in file.get("parts", [{"member": file.get("member")}]):
                    assert part["member"], file["path"]
                    assert part.get("version", given_here["version"])
                    assert part.get("package", given_here["package"])


def test_built_in_specs_do_not_depend_on_plugins_being_in_order() -> None:
    assert len(builtin_specs(Plugins())) == 7
    problems = spec_problems(builtin_specs(Plugins())[0], Plugins())
    assert [str(problem) for problem in problems] == [
        "variants.0.engine 'sentence_transformers' is not a known engine (known: none)",
        "variants.0.source.kind 'pypi' is not a known source (known: none)",
    ]


def test_a_model_is_resolved_by_name_alias_or_path(tmp_path: Path) -> None:
    by_name = resolve_model("all-minilm-l6-v2", plugins=PLUGINS)
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2", plugins=PLUGINS) == by_name
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    assert resolve_model(str(path), plugins=PLUGINS).name == "tiny"
    with pytest.raises(ConfigError, match=r"neither a built-in model nor a path that exists: did you mean"):
        resolve_model("all-minilm-l6", plugins=PLUGINS)
    with pytest.raises(ConfigError, match=r"'\\x00' is neither a built-in model nor a path"):
        resolve_model("\0", plugins=PLUGINS)
    with pytest.raises(ConfigError, match=r"is neither a built-in model nor a path"):
        resolve_model("x" * 10_000, plugins=PLUGINS)
    with pytest.raises(ConfigError):
        resolve_model("~nobody-at-all/x", plugins=PLUGINS)


def test_did_you_mean_keeps_the_known_spelling_and_stays_silent_otherwise() -> None:
    assert did_you_mean("qwen", ["Qwen3"]) == ": did you mean 'Qwen3'?"
    assert did_you_mean("zebra", ["Qwen3"]) == ""


def test_a_spec_is_an_ordinary_value() -> None:
    spec = parse_spec(GOOD, filename="x", plugins=PLUGINS)
    assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("line", ["keep_alive: auto", ""])
def test_a_spec_may_leave_the_keep_alive_to_the_platform(line: str) -> None:
    spec = parse_spec(GOOD.replace("keep_alive: 90s", line), filename="models.yaml", plugins=PLUGINS)
    assert spec.keep_alive is None
    assert spec.model_dump(mode="json")["keep_alive"] == "auto"
