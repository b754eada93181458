"""Fixtures that more than one part of the tests needs: real weights, and a home to put things in."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.catalog.weights import WeightsStore
from ekiben.plugins.discovery import discover
from tests.conformance import tap


def pytest_configure() -> None:
    """A run in the background ignores Ctrl-C, and so would every command that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says nothing on a machine that others use too.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    tap.install()
    # As replicas have it: threads that spin take the cores from the other worker, and from what it started.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers: whole files go together, and all that starts platforms is one worker's affair."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByPart(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "platforms" if file.split("/")[1] in ("bentos", "e2e") else file

    return ByPart(config, log)


_heard_by_workers: list[int] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    _heard_by_workers.append(getattr(node, "workeroutput", {}).get("heard", 0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What a worker leaves to the one who began it."""
    if (left := getattr(session.config, "workeroutput", None)) is not None:
        left["heard"] = sum(tap.heard().values())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was held to the published surface."""
    if heard := sum(tap.heard().values()) + sum(_heard_by_workers):
        terminalreporter.write_line(f"{heard} answers were held to the published surface")


@pytest.fixture(autouse=True)
def _answers_conform() -> Iterator[None]:
    """Whatever a test asks for: each answer that it reads is as OpenAI says."""
    yield
    problems = tap.take_problems()
    assert not problems, "\n".join(problems[:10])


@pytest.fixture(scope="session")
def weights_home() -> Path:
    """Where tests keep real weights from one run to the next."""
    return Path(os.environ.get("EKIBEN_TEST_WEIGHTS") or "~/.cache/ekiben-tests").expanduser().absolute()


@pytest.fixture(scope="session")
def weights(weights_home: Path) -> Callable[[str], Path]:
    """`weights("smollm2-135m-instruct")`: what an engine loads, fetched the first time."""
    plugins = discover()

    def path_of(name: str) -> Path:
        source = resolve_model(name, plugins=plugins).variants[0].source
        store = WeightsStore(weights_home, plugins)
        if (path := store.local_path(source)) is not None:
            return path
        with ThreadPoolExecutor(max_workers=1) as thread:  # the caller may be inside a running loop
            return thread.submit(asyncio.run, store.ensure(source, report=lambda _: None)).result()

    return path_of


@pytest.fixture
def ekiben_home() -> Iterator[Path]:
    """An empty home whose path is short enough for the sockets in it."""
    home = Path(tempfile.mkdtemp(prefix="ek-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)
