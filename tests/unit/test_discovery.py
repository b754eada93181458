"""Discovery: plugins are found by entry point and manifest, none is imported, and a bad one harms nobody."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ekiben.contract.manifest import PluginKind
from ekiben.plugins.discovery import Plugins, discover, load_object, parse_manifest

MANIFEST = """\
id = "{id}"
kind = "engine"
api = {api}
name = "Toy"
summary = "for tests"
object = "{package}.engine:Toy"
requires = {requires}
[engine]
families = ["llm"]
abilities = ["chat"]
formats = ["toy"]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, in front of the real one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(
    site: Path,
    plugin_id: str = "toy",
    *,
    distribution: str | None = None,
    package: str | None = None,
    manifest: str | None = None,
    code: str = "raise RuntimeError('plugins must not be imported')",
    entry_point: str | None = None,
) -> Path:
    """What pip would leave behind for a plugin; gives its package's folder."""
    package = package or f"ekiben_{plugin_id}"
    distribution = distribution or f"ekiben-{plugin_id}"
    info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    target = entry_point or package
    (info / "entry_points.txt").write_text(f"[ekiben.plugins]\n{plugin_id} = {target}\n")
    folder = site / package
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(code)
    if manifest is None:
        manifest = MANIFEST.format(id=plugin_id, api=1, package=package, requires="[]")
    (folder / "plugin.toml").write_text(manifest)
    return folder


def reason(plugins: Plugins, plugin_id: str = "toy") -> str:
    assert plugin_id not in plugins.usable
    (broken,) = (broken for broken in plugins.broken if broken.id == plugin_id)
    return broken.reason


def test_the_first_party_plugins_are_found_and_in_order() -> None:
    plugins = discover()
    assert plugins.broken == ()
    checkout = Path(__file__).parents[2] / "plugins"
    assert set(plugins.usable) == {file.parent.name for file in checkout.glob("*/plugin.toml")}
    assert set(plugins.policies()) == {"adaptive", "classic"}
    assert set(plugins.sources()) == {"huggingface", "local", "modelscope", "pypi"}
    assert all(plugin.distribution == "ekiben" for plugin in plugins.usable.values())


def test_a_plugin_of_somebody_else_is_found_without_being_imported(site: Path) -> None:
    folder = install(site)
    plugins = discover()
    toy = plugins.engines()["toy"]
    assert (toy.distribution, toy.version, toy.folder) == ("ekiben-toy", "1.2", folder)
    assert toy.manifest.kind is PluginKind.ENGINE
    assert plugins.standing(toy).ready
    assert "ekiben_toy" not in sys.modules


def test_discovery_imports_no_plugin_and_no_engine() -> None:
    code = (
        "import sys; from ekiben.plugins.discovery import discover; plugins = discover();"
        "heavy = {'torch', 'bentoml', 'xllamacpp', 'ctranslate2', 'onnxruntime', 'huggingface_hub'};"
        "loaded = sorted(m for m in sys.modules if m.startswith('ekiben_') or m in heavy);"
        "print(loaded, len(plugins.usable) > 10)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[] True"


def test_the_manifest_may_lie_beside_the_package(site: Path) -> None:
    (site / "beside").mkdir()
    folder = install(site)
    (site / "plugin.toml").write_text((folder / "plugin.toml").read_text())
    (folder / "plugin.toml").unlink()
    assert discover().usable["toy"].folder == site


def test_two_distributions_with_one_name_are_both_refused(site: Path) -> None:
    install(site)
    install(site, distribution="evil-toy", package="evil_toy")
    expected = "'toy' is offered by ekiben-toy, evil-toy: uninstall all of them but one"
    assert reason(discover()) == expected


def test_a_stranger_cannot_take_a_first_party_plugin_away(site: Path) -> None:
    install(site, "piper", distribution="evil", package="evil_piper")
    plugins = discover()
    assert plugins.usable["piper"].distribution == "ekiben"
    (broken,) = plugins.broken
    assert (broken.id, broken.distribution) == ("piper", "evil")
    assert broken.reason == "'piper' is the name of a plugin of ekiben: uninstall evil"


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (
            MANIFEST.format(id="toy", api=2, package="ekiben_toy", requires="[]"),
            "written for API 2, this platform",
        ),
        (
            'api = 7\nkind = "dialect"\nnew = true',
            "written for API 7, this platform has API 1: install a version",
        ),
        (
            MANIFEST.format(id="other", api=1, package="ekiben_toy", requires="[]"),
            "its manifest says 'other' in 'ekiben_toy', its entry point says 'toy' in 'ekiben_toy'",
        ),
        (
            MANIFEST.format(id="toy", api=1, package="another", requires="[]"),
            "its manifest says 'toy' in 'another'",
        ),
        ("nonsense", "plugin.toml: Expected '='"),
        ("", "plugin.toml: id: Field required"),
        (MANIFEST.format(id="toy", api='"1"', package="ekiben_toy", requires="[]"), None),
        (MANIFEST.format(id="toy", api=1, package="ekiben_toy", requires="3"), "plugin.toml: requires: "),
        (
            MANIFEST.format(id="toy", api=1, package="ekiben_toy", requires="[]") + "typo = 1",
            "engine.typo: Extra",
        ),
        (
            MANIFEST.format(id="toy", api=1, package="ekiben_toy", requires="[]") + "[source]",
            "has a [engine] table",
        ),
    ],
)
def test_a_bad_manifest_is_told_and_harms_nobody(site: Path, manifest: str, expected: str | None) -> None:
    install(site, manifest=manifest)
    plugins = discover()
    if expected is None:
        assert "toy" in plugins.usable
        return
    assert expected in reason(plugins)
    assert set(plugins.usable) == set(discover().usable) >= {"llama_cpp", "pypi"}


def test_a_missing_manifest_or_package_is_told(site: Path) -> None:
    folder = install(site)
    (folder / "plugin.toml").unlink()
    assert "there is no plugin.toml in" in reason(discover())
    (folder / "plugin.toml").write_bytes(b"\xff")
    assert "plugin.toml: 'utf-8' codec can't decode" in reason(discover())
    install(site, "gone", entry_point="not_there_at_all")
    assert "the package 'not_there_at_all' cannot be found" in reason(discover(), "gone")


@pytest.mark.parametrize("target", ["ekiben_toy.engine", "ekiben_toy:Toy", "ekiben_toy.engine:Toy"])
def test_an_entry_point_into_a_package_is_refused_without_importing_it(site: Path, target: str) -> None:
    install(site, entry_point=target)
    assert f"its entry point must name a top-level package, not {target!r}" in reason(discover())
    assert "ekiben_toy" not in sys.modules


@pytest.mark.parametrize(
    ("requirement", "satisfied"),
    [
        ("pytest", True),
        ("PyTest>=8", True),
        ("pytest>=9999", False),
        ("no-such-package", False),
        ("no-such-package; sys_platform == 'beos'", True),
        ("not a requirement!", False),
    ],
)
def test_missing_requirements_are_told(site: Path, requirement: str, satisfied: bool) -> None:
    install(
        site, manifest=MANIFEST.format(id="toy", api=1, package="ekiben_toy", requires=f'["{requirement}"]')
    )
    plugins = discover()
    missing = plugins.standing(plugins.usable["toy"]).missing
    assert missing == (() if satisfied else (requirement,))


def test_loading_is_left_to_those_who_run_plugins(site: Path) -> None:
    folder = install(site, "loadable", code="")
    (folder / "engine.py").write_text("class Toy:\n    pass\n")
    made = load_object(discover().usable["loadable"])
    assert type(made).__name__ == "Toy"
    (site / "ekiben_loadable-1.2.dist-info" / "entry_points.txt").unlink()
    assert "loadable" not in discover().usable


def test_a_manifest_alone_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "plugin.toml"
    path.write_text(MANIFEST.format(id="toy", api=1, package="ekiben_toy", requires="[]"))
    assert parse_manifest(path).id == "toy"


def test_the_entry_points_are_those_of_the_project() -> None:
    names = {entry_point.name for entry_point in metadata.entry_points(group="ekiben.plugins")}
    assert names == set(discover().usable)


def test_engine_asks_for_variables_and_the_operator_goes_first() -> None:
    interpreter = discover().interpreter("llama_cpp")
    asked = interpreter.variables({"PATH": "/bin"})
    assert asked["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert (
        interpreter.variables({"GLIBC_TUNABLES": "glibc.rtld.nns=8"})["GLIBC_TUNABLES"] == "glibc.rtld.nns=8"
    )


def test_plugin_that_is_not_there_asks_for_nothing() -> None:
    assert discover().interpreter("nobody").variables({"PATH": "/bin"}) == {"PATH": "/bin"}
