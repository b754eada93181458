"""The documentation as a tested contract: what the code has, the reference names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ekiben import errors
from ekiben.app import App
from ekiben.cli.main import ekiben
from ekiben.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "platform" / "REFERENCE.md").read_text()
README = (ROOT / "README.md").read_text()


def subclasses(root: type[errors.EkibenError]) -> Iterator[type[errors.EkibenError]]:
    for each in root.__subclasses__():
        yield each
        yield from subclasses(each)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_documented(name: str) -> None:
    assert f"| `{name}` | `{PREFIX}{name.upper()}` |" in REFERENCE


CODES = sorted({error.code for error in subclasses(errors.EkibenError) if error.code is not None})


@pytest.mark.parametrize("code", CODES)
def test_error_is_documented(code: str) -> None:
    assert f"`{code}`" in REFERENCE


def test_documented_errors_exist() -> None:
    codes = {error.code for error in subclasses(errors.EkibenError)}
    section = REFERENCE.partition("## Errors")[2]
    documented = set(re.findall(r"^\| \d+ \| `(\w+)`", section, re.MULTILINE))
    assert documented <= codes


def string_constants(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "platform" / "ekiben" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_metrics_are_documented() -> None:
    names = {
        text
        for text in string_constants("telemetry") | string_constants("runtime")
        if re.fullmatch(r"ekiben_[a-z_]+", text)
    }
    assert names, "the metrics were not found"
    assert {name for name in names if name not in REFERENCE} == set()


def commands(group: click.Group, prefix: str = "ekiben") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert command.help, f"{prefix} {name} has no help"
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, f"{prefix} {name} {parameter.name} has no help"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_commands_are_those_of_the_design_and_have_help() -> None:
    assert set(commands(ekiben)) >= {
        "ekiben up",
        "ekiben model ls",
        "ekiben model show",
        "ekiben model add",
        "ekiben model rm",
        "ekiben pull",
        "ekiben load",
        "ekiben stop",
        "ekiben ps",
        "ekiben logs",
        "ekiben run",
        "ekiben engine ls",
        "ekiben engine show",
        "ekiben engine install",
        "ekiben engine rm",
        "ekiben engine doctor",
        "ekiben bento ls",
        "ekiben bento build",
        "ekiben bento containerize",
        "ekiben config show",
        "ekiben doctor",
    }


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


async def test_routes_are_documented_and_documented_routes_exist(tmp_path: Path) -> None:
    app = App(load_settings({"home": tmp_path / "home"}, environment={}))
    gateway = await app.start()
    try:
        routes = {f"{route.method} {route.path}" for route in gateway.router.routes}
    finally:
        await app.stop()
    section = REFERENCE.partition("## Routes")[2].partition("## Commands")[0]
    documented = {
        re.sub(r"\{\w+\}", "{}", text) for text in re.findall(r"^\| `([A-Z]+ [^`]+)`", section, re.M)
    }
    assert documented == routes
