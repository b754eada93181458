"""The layout that the design fixes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DESIGN.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "bentofile.yaml",
    "bentos",
    "constraints.txt",
    "deploy",
    "platform",
    "plugins",
    "pyproject.toml",
    "tests",
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "misc"}
MAX_FUNCTION_LINES = 80


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and (ROOT / path).exists()]


def test_top_level_is_what_the_design_says() -> None:
    assert {path.parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_python_file_lies_directly_in_platform() -> None:
    assert [path for path in tracked() if path.parent == Path("platform") and path.suffix == ".py"] == []


@pytest.mark.parametrize("folder", [".", "platform", "plugins", "bentos", "tests"])
def test_the_standard_library_s_platform_is_imported_from_everywhere(folder: str) -> None:
    script = "import platform; print(platform.python_implementation())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "CPython", done.stderr


def test_modules_have_names_of_the_domain() -> None:
    assert [path for path in sources() if path.stem in FORBIDDEN_NAMES] == []


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in sources() if path.name.startswith("test_")]
    assert len(names) == len(set(names))


def test_every_module_says_what_it_owns() -> None:
    silent = [
        path
        for path in sources()
        if (ROOT / path).read_text().strip()
        and ast.get_docstring(ast.parse((ROOT / path).read_text())) is None
    ]
    assert silent == []


def test_functions_are_short() -> None:
    long = []
    for path in sources():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path}:{node.lineno} {node.name} has {lines} lines")
    assert long == []
