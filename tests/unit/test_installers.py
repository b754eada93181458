"""pip's configuration in the words of uv, and what the two of them say when something is wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ekiben.errors import EkibenError
from ekiben.plugins.installers import Installer, Wishes, translate, uv_installer


def test_what_pip_is_told_uv_is_told() -> None:
    listing = """\
:env:.constraint='/etc/pins.txt /etc/more.txt'
:env:.find-links='/wheels'
:env:.default-timeout='180'
global.cert='/etc/ca.pem'
global.extra-index-url='\\nhttps://one/simple\\nhttps://two/simple'
global.find-links='/old-wheels'
install.index-url='https://mirror/simple'
install.no-index='false'
install.pre='true'
install.proxy='http://proxy:3128'
install.trusted-host='mirror'
list.format='columns'
"""
    told = translate(listing)
    assert told is not None
    flags, variables = told
    assert " ".join(flags) == (
        "--find-links /wheels --prerelease allow --allow-insecure-host mirror "
        "--constraint /etc/pins.txt --constraint /etc/more.txt"
    )
    assert variables == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_EXTRA_INDEX_URL": "https://one/simple https://two/simple",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "HTTP_PROXY": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
    }


@pytest.mark.parametrize("line", ["global.no-binary=':all:'", "install.require-hashes='true'"])
def test_what_uv_has_no_words_for_is_left_to_pip(line: str) -> None:
    assert translate(f"{line}\nglobal.timeout='5'\n") is None


def test_uv_is_used_only_if_it_runs(tmp_path: Path) -> None:
    program = tmp_path / "uv"
    environment = {**os.environ, "PATH": str(tmp_path)}
    program.write_text("#!/bin/sh\necho uv 1.2.3 of this machine\n")
    program.chmod(0o755)
    found = uv_installer(environment)
    assert found is not None and (found.name, found.version) == ("uv", "1.2.3")
    program.write_text("#!/bin/sh\nexit 1\n")
    assert uv_installer(environment) is None
    program.write_text("#!/bin/sh\necho uv 1.2.3\n")
    assert uv_installer({**environment, "PIP_NO_BINARY": ":all:"}) is None


def saying(text: str, code: int = 1) -> Installer:
    """An installer that says so and ends."""
    script = f"import sys; print({text!r}); print('wishes', *sys.argv[1:]); sys.exit({code})"
    return Installer("pip", "1", (sys.executable, "-c", script, "{python}"), ("--quiet",), dict(os.environ))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ERROR: Could not find it\nERROR: No match", "pip could not install x: Could not find it"),
        (
            "Collecting y\nERROR: Could not install packages: [Errno 28] No space left on device",
            "No space left on device; make room, or choose another disk with --home",
        ),
        (
            "WARNING: Retrying: Temporary failure in name resolution\nERROR: No matching distribution",
            "Temporary failure in name resolution; try again with a network, or give a folder of wheels",
        ),
        (
            "error: No solution found\n  cause: Because b was not found, no.",
            "pip could not install x: No solution found; Because b was not found, no",
        ),
        ("", "pip could not install x: it ended with code 3"),
    ],
)
def test_the_reason_is_the_installers_own_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(EkibenError) as caught:
        saying(text, 3).install(tmp_path, ["x"], what="x", wishes=Wishes(), report=lambda line: None)
    assert told in caught.value.message
    assert "\n" not in caught.value.message


def test_wishes_are_passed_on(tmp_path: Path) -> None:
    lines: list[str] = []
    wishes = Wishes(constraints=(Path("/pins.txt"),), wheels=Path("/wheels"))
    saying("", 0).install(Path("/python"), ["a", "b>=2"], what="a", wishes=wishes, report=lines.append)
    expected = "wishes /python --quiet --constraint /pins.txt --no-index --find-links /wheels a b>=2"
    assert lines[-1] == expected
