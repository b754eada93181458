"""Where the families' Bentos lie: beside the platform in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ekiben.contract.model import Family
from ekiben.errors import ConfigError

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def bento_folder(family: Family) -> Path:
    """The folder with the family's `service.py`. Raises ConfigError when it is not installed."""
    candidates = (_PACKAGE / "bentos" / family.value, _PACKAGE.parents[1] / "bentos" / family.value)
    for folder in candidates:
        if (folder / "service.py").is_file():
            return folder
    raise ConfigError(
        f"the Bento of family {family.value!r} is missing from {candidates[0]}: install ekiben again"
    )
