"""A real platform for each test module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import mayflies
from tests.mayflies import Mayfly
from tests.running import Platform

NUMBERS = itertools.count(1)
"""So that each model has a past of its own."""


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


@pytest.fixture(scope="session")
def with_mayflies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a platform on which the mayfly engine is installed."""
    return mayflies.install(tmp_path_factory.mktemp("site") / "packages")


@pytest.fixture(scope="module")
def pond(make_platform: Callable[..., Platform], with_mayflies: dict[str, str]) -> Platform:
    """A started platform that has the mayfly engine."""
    return make_platform("--keep-alive", "never", "--drain-s", "10", env=with_mayflies).start()


@pytest.fixture
def hatch(pond: Platform, tmp_path: Path) -> Iterator[Callable[..., Mayfly]]:
    """`hatch("name", load="!gate")`: a model in the pond, which is stopped when the test is over."""
    made: list[Mayfly] = []

    def make(name: str = "fly", **options: Any) -> Mayfly:
        made.append(Mayfly(pond, f"{name}-{next(NUMBERS)}", tmp_path, **options))
        return made[-1]

    yield make
    for mayfly in made:
        mayfly.open_gate()
        pond.post(f"/api/models/{mayfly.name}/stop")
