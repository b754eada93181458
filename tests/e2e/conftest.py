"""A real platform for each test module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import Platform


@pytest.fixture(scope="module")
def make_platform(
    weights_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Platform]]:
    """Makes platforms with flags and variables, not yet started; all are stopped at the end."""
    made: list[Platform] = []

    def make(*flags: str, home: Path | None = None, env: dict[str, str] | None = None) -> Platform:
        folder = home or tmp_path_factory.mktemp("home") / "h"
        platform = Platform(folder, weights_home / "weights", *flags, env=env)
        made.append(platform)
        return platform

    yield make
    for platform in made:
        if platform.process is not None and platform.process.poll() is None:
            platform.stop()


@pytest.fixture(scope="module")
def platform(make_platform: Callable[..., Platform]) -> Platform:
    """One platform with default settings, started."""
    return make_platform().start()
