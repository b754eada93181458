"""One distribution that carries every plugin and every Bento."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from ekiben.contract.manifest import PluginKind
from ekiben.plugins.discovery import parse_manifest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugin_is_complete(plugin: str) -> None:
    folder = ROOT / "plugins" / plugin
    manifest = parse_manifest(folder / "plugin.toml")
    assert manifest.id == plugin
    assert manifest.package == f"ekiben_{plugin}"
    assert (folder / f"ekiben_{plugin}" / "__init__.py").is_file()
    assert len((folder / "README.md").read_text().splitlines()) >= 5
    assert PROJECT["project"]["entry-points"]["ekiben.plugins"][plugin] == f"ekiben_{plugin}"
    assert f"plugins/{plugin}/ekiben_{plugin}" in WHEEL["packages"]
    assert WHEEL["force-include"][f"plugins/{plugin}/plugin.toml"] == f"ekiben_{plugin}/plugin.toml"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_extra_brings_what_the_manifest_requires(plugin: str) -> None:
    manifest = parse_manifest(ROOT / "plugins" / plugin / "plugin.toml")
    if manifest.extra is None:
        assert manifest.kind is not PluginKind.ENGINE or manifest.environment
        return
    base = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    needed = {text for text in manifest.requires if Requirement(text).name not in base}
    assert needed == set(PROJECT["project"]["optional-dependencies"][manifest.extra])


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugin_folder_holds_one_package_and_nothing_loose(plugin: str) -> None:
    loose = [path.name for path in (ROOT / "plugins" / plugin).glob("*.py")]
    packages = [path.parent.name for path in (ROOT / "plugins" / plugin).glob("*/__init__.py")]
    assert (loose, packages) == ([], [f"ekiben_{plugin}"])


def test_base_install_has_no_torch() -> None:
    assert not [text for text in PROJECT["project"]["dependencies"] if "torch" in text]


def test_wheel_holds_plugins_manifests_bentos_and_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for plugin in PLUGINS:
        assert {f"ekiben_{plugin}/__init__.py", f"ekiben_{plugin}/plugin.toml"} <= names
    for family in ("llm", "embedding", "audio", "vision"):
        assert {f"ekiben/bentos/{family}/service.py", f"ekiben/bentos/{family}/bentofile.yaml"} <= names
    assert [name for name in names if name.startswith("ekiben/catalog/builtin/") and name.endswith(".yaml")]
    digits = [name for name in names if name.startswith("ekiben/catalog/builtin/digits-diffusion/")]
    assert {Path(name).suffix for name in digits} == {".json", ".safetensors"}
    assert [name for name in names if name.startswith("ekiben/store/migrations/")]
    assert "ekiben/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "platform/"))]
