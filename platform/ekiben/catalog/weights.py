"""The store of weights: brings each source's weights to this machine once, however many ask for them.

Within a process, callers share one task; between processes, a file lock decides who fetches, and the
others wait and pass on what they see. Half-done work stays for the next try and is never visible.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from ekiben.catalog.fetch import DiskFull, run_worker, worker_request
from ekiben.catalog.shelf import Shelf
from ekiben.contract.delivery import space_message
from ekiben.contract.manifest import problems
from ekiben.contract.model import SourceSpec
from ekiben.contract.source import FetchProgress
from ekiben.errors import Conflict, FetchFailed
from ekiben.plugins.discovery import Plugin, Plugins
from ekiben.settings import process_environment

Report = Callable[[FetchProgress], None]

STALL_TIMEOUT_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.2


class WeightsStore:
    """The weights under `home`. Its methods belong to one event loop."""

    def __init__(
        self,
        home: Path,
        plugins: Plugins,
        *,
        environment: Mapping[str, str] | None = None,
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        """`environment` is that of the sources: tokens, mirrors, proxies; by default this process's."""
        self._home = home
        self._plugins = plugins
        self._environment = environment
        self._stall_timeout_s = stall_timeout_s
        self._flights: dict[Path, _Flight] = {}

    def local_path(self, source: SourceSpec) -> Path | None:
        """What engines load, if the weights are here and whole. A look at some file sizes."""
        return Shelf.of(self._home, source).loader_path()

    def size_bytes(self, source: SourceSpec) -> int | None:
        """Of weights that are here and whole."""
        return Shelf.of(self._home, source).size_bytes()

    def remove(self, source: SourceSpec) -> None:
        """Forget these weights and what was fetched of them; files used in place stay. Idempotent.

        Raises Conflict while they are being fetched, here or by another process.
        """
        shelf = Shelf.of(self._home, source)
        if not shelf.folder.parent.exists():
            return
        with shelf.locked() as lock:
            if lock is None:
                raise Conflict("these weights are being fetched at this moment: stop that first")
            shelf.discard()

    async def ensure(self, source: SourceSpec, *, report: Report) -> Path:
        """What engines load, fetched first where it is not here yet. Raises FetchFailed.

        Callers for the same source share one fetch; it goes on while one of them waits, and is stopped
        when the last one is cancelled. What has come by then is kept for the next try. `report` gets
        totals, not steps, a few times a second: two of them and the time between tell the speed.
        """
        shelf = Shelf.of(self._home, source)
        if (path := shelf.loader_path()) is not None:
            return path
        plugin = self._plugin_for(source)
        flight = self._flights.get(shelf.folder)
        if flight is None or flight.over:
            flight = self._flights[shelf.folder] = _Flight(
                lambda report_all: self._bring(shelf, source, plugin, report_all), name=f"fetch {source.kind}"
            )
        try:
            return await flight.join(report)
        finally:
            if flight.over and self._flights.get(shelf.folder) is flight:
                del self._flights[shelf.folder]

    def _plugin_for(self, source: SourceSpec) -> Plugin:
        """Raises FetchFailed when there is none, or the spec gives it what it does not take."""
        sources = self._plugins.sources()
        plugin = sources.get(source.kind)
        if plugin is None or plugin.manifest.source is None:
            known = ", ".join(sources) or "none"
            raise FetchFailed(f"there is no source {source.kind!r} here (installed: {known})")
        wrong = problems(plugin.manifest.source.parameters, source.parameters)
        if wrong:
            reasons = "; ".join(f"{name!r} {reason}" for name, reason in wrong)
            raise FetchFailed(f"source {source.kind!r}: {reasons}")
        if missing := self._plugins.standing(plugin).missing:
            extra = plugin.manifest.extra
            packages = f"'ekiben[{extra}]'" if extra else " ".join(f"'{text}'" for text in missing)
            raise FetchFailed(f"the source {source.kind!r} is not installed: pip install {packages}")
        return plugin

    async def _bring(self, shelf: Shelf, source: SourceSpec, plugin: Plugin, report: Report) -> Path:
        try:
            async with _turn(shelf, report) as lock:
                if (path := shelf.loader_path()) is not None:
                    return path  # whoever had the turn before has done it
                shelf.prepare()
                return await self._fetch(shelf, source, plugin, lock=lock, report=report)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FetchFailed(space_message(self._home, needed_bytes=None)) from error
            raise FetchFailed(
                f"the weights cannot be written under {self._home}: {error.strerror or error}; "
                "check the folder's permissions, or choose another one with EKIBEN_HOME"
            ) from error

    async def _fetch(
        self, shelf: Shelf, source: SourceSpec, plugin: Plugin, *, lock: int, report: Report
    ) -> Path:
        request = worker_request(
            source.kind,
            object_path=plugin.manifest.object,
            parameters=source.parameters,
            folder=shelf.incoming,
            progress_file=shelf.progress_file,
        )
        try:
            path = await run_worker(
                request,
                environment=process_environment() if self._environment is None else self._environment,
                lock=lock,
                stall_timeout_s=self._stall_timeout_s,
                report=report,
            )
        except DiskFull:
            shelf.discard_part()  # the machine needs the room more than the next try does
            raise
        except FetchFailed:
            shelf.discard_part(if_empty=True)
            raise
        return shelf.publish(path, source=source)


class _Flight:
    """A fetch under way in this process, and those who wait for it."""

    def __init__(self, fetch: Callable[[Report], Coroutine[Any, Any, Path]], *, name: str) -> None:
        self._reports: dict[object, Report] = {}
        self._latest: FetchProgress | None = None
        self._abandoned = False
        self._task = asyncio.create_task(fetch(self._report), name=name)

    @property
    def over(self) -> bool:
        """Nobody can join any more."""
        return self._abandoned or self._task.done()

    async def join(self, report: Report) -> Path:
        """Wait for the end. The last one to be cancelled stops the fetch, and waits until it has stopped."""
        token = object()
        self._reports[token] = report
        try:
            if self._latest is not None:
                report(self._latest)
            return await asyncio.shield(self._task)
        finally:
            del self._reports[token]
            if not self._reports and not self._task.done():
                self._abandoned = True
                self._task.cancel()
                await asyncio.wait({self._task})

    def _report(self, progress: FetchProgress) -> None:
        self._latest = progress
        for report in list(self._reports.values()):
            report(progress)


@asynccontextmanager
async def _turn(shelf: Shelf, report: Report) -> AsyncIterator[int]:
    """Wait until nobody else writes to the shelf; meanwhile report what they do. Gives the lock."""
    seen: FetchProgress | None = None
    while True:
        with shelf.locked() as lock:
            if lock is not None:
                yield lock
                return
        progress = shelf.progress()
        if progress is not None and progress != seen:
            seen = progress
            report(progress)
        await asyncio.sleep(_LOOK_EVERY_S)
