"""One batch on its way: looked through, run line by line in idle capacity, and ended in one of four ways.

A run is one task, which alone changes its batch and alone writes its row; others tell it to `end`. What it
did is in its journal, so a run that is begun anew, after `kill -9` too, goes on behind what is there: a
request that was under way is made again, one that has its line is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any, Final

import msgspec

from ekiben.clock import Clock
from ekiben.errors import ConfigError, NotFound, ShuttingDown, StorageFull, envelope
from ekiben.gateway.batches.journal import Journal
from ekiben.gateway.batches.lines import Inspection, Line, inspect_lines, read_lines
from ekiben.gateway.files.library import Library
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.relay.errand import Heard, Serve, Work, errand
from ekiben.store.batches import BatchStore, StoredBatch
from ekiben.store.files import StoredFile

logger = logging.getLogger(__name__)

OUTPUT_PURPOSE: Final = "batch_output"
UNDER_WAY: Final = ("validating", "in_progress", "finalizing", "cancelling")
_PASSING: Final = frozenset({429, 502, 503, 504})
"""What a request is tried again for."""
_LEFT_OUT: Final = {
    "expired": ("batch_expired", "this request could not be run before the completion window was over"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was run"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a run goes on."""

    concurrency: int
    """Requests that are under way at a time; how many of them get a lease is the fleet's to decide."""
    retries_s: Sequence[float] = (1.0, 10.0)
    """Pauses before a request is made again that failed for a reason which passes."""
    storage_s: float = 5.0
    """Pause before something is written again for which there was no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all runs share."""

    store: BatchStore
    library: Library
    serve: Serve
    dispatch: Work
    """Takes an exchange to its route."""
    clock: Clock
    pace: Pace


class BatchRun:
    """Start `go` as a task; cancelled, it leaves everything to the next one."""

    def __init__(self, stored: StoredBatch, means: Means, *, check_model: Callable[[str], None]) -> None:
        self.stored = stored
        self.noted = asyncio.Event()
        """It has been written down that the run is to end, or that it has."""
        self._batch: dict[str, Any] = msgspec.json.decode(stored.batch)
        self._means = means
        self._check_model = check_model
        self._journal: Journal | None = None
        self._working: asyncio.Task[None] | None = None
        self._ending = "cancelled" if self.status == "cancelling" else None

    @property
    def status(self) -> str:
        return str(self._batch["status"])

    @property
    def batch(self) -> dict[str, Any]:
        """As it is told, with what is done by now."""
        if (journal := self._journal) is None:
            return self._batch
        counts = self._batch["request_counts"] | {"completed": journal.completed, "failed": journal.failed}
        return self._batch | {"request_counts": counts, "usage": journal.usage.told()}

    def end(self, how: str) -> None:
        """`cancelled` or `expired`: nothing more is begun, what is done is kept. The first one counts."""
        if self._ending is None:
            self._ending = how
            if self._working is not None:
                self._working.cancel()

    def end_if_overdue(self) -> None:
        """Its completion window may be over."""
        if self._means.clock.now().timestamp() >= self._batch["expires_at"]:
            self.end("expired")

    async def go(self) -> None:
        """To its end, over whatever of it was done before."""
        try:
            with self._means.library.reading(self.stored.input_id):
                await self._go()
        finally:
            if self._journal is not None:
                self._journal.close()
            self.noted.set()

    async def _go(self) -> None:
        self.end_if_overdue()
        if self.status == "validating" and not await self._validate():
            return
        self._journal = await self._written(self._open_journal)
        if self._ending is None:
            await self._run_lines(self._journal)
        await self._finish(self._journal)

    def _open_journal(self) -> Journal:
        stored, blobs = self.stored, self._means.library.blobs
        return Journal(blobs, output_id=stored.output_id, error_id=stored.error_id)

    # Before

    async def _validate(self) -> bool:
        """Whether it can be run."""
        found = await self._inspect()
        news: dict[str, Any] = {"request_counts": {"total": found.lines, "completed": 0, "failed": 0}}
        if found.model is not None:
            news["model"] = found.model
        if found.errors:
            await self._become("failed", news | {"errors": {"object": "list", "data": found.errors}})
            return False
        await self._become("in_progress", news)
        return True

    async def _inspect(self) -> Inspection:
        endpoint = self._batch["endpoint"]
        try:
            with await self._open_input() as file:
                return await asyncio.to_thread(
                    inspect_lines, file, endpoint=endpoint, check_model=self._check_model
                )
        except (NotFound, OSError) as error:
            message = error.message if isinstance(error, NotFound) else f"it cannot be read: {error}"
            return Inspection(errors=[{"code": "invalid_file", "message": message}])

    async def _open_input(self) -> IO[bytes]:
        return await asyncio.to_thread(self._means.library.blobs.open, self.stored.input_id)

    # The work

    async def _run_lines(self, journal: Journal) -> None:
        """Until there is none left, or the run is to end."""
        self._working = asyncio.create_task(self._work(journal), name=f"work on {self.stored.id}")
        try:
            await asyncio.wait({self._working})
        finally:
            if not self._working.done():
                self._working.cancel()
                await asyncio.wait({self._working})
        if not self._working.cancelled():
            self._working.result()

    async def _work(self, journal: Journal) -> None:
        places = asyncio.Semaphore(self._means.pace.concurrency)
        with await self._open_input() as file:
            lines = _open_lines(file, journal)
            async with asyncio.TaskGroup() as group:
                while (line := await asyncio.to_thread(next, lines, None)) is not None:
                    await places.acquire()
                    group.create_task(self._run_line(line, journal, places), name=f"line of {self.stored.id}")

    async def _run_line(self, line: Line, journal: Journal, places: asyncio.Semaphore) -> None:
        try:
            exchange, body = await self._ask(line)
            for pause_s in self._means.pace.retries_s:
                if exchange.outcome not in _PASSING or _is_hopeless(exchange):
                    break
                await asyncio.sleep(pause_s)
                exchange, body = await self._ask(line)
            status, request_id = exchange.outcome, exchange.id
            await self._written(
                lambda: journal.answered(line.custom_id, status=status, request_id=request_id, body=body)
            )
        finally:
            places.release()

    async def _ask(self, line: Line) -> tuple[Exchange, bytes]:
        heard = Heard()
        exchange = errand(self._batch["endpoint"], heard.hear, clock=self._means.clock, body=line.body)
        exchange.idle = True
        await self._means.serve(exchange, self._means.dispatch)
        error = exchange.error
        if isinstance(error, ShuttingDown):
            await asyncio.Event().wait()  # until the platform has ended; the next one asks again
        told = heard.body if error is None or heard.body else msgspec.json.encode(envelope(error))
        return exchange, told

    # The end

    async def _finish(self, journal: Journal) -> None:
        ending = self._ending
        if ending is None:
            await self._become("finalizing")
        elif ending == "cancelled" and self.status != "cancelling":
            await self._become("cancelling")
        self.noted.set()
        if ending is not None:
            await self._written(lambda: self._leave_out(journal, ending))
        files = self._files(journal)
        ids = {f"{name}_file_id": file.id for name, file in files.items()}
        await self._become(ending or "completed", ids, files=list(files.values()))
        self._means.library.made(journal.output_bytes + journal.error_bytes)
        await asyncio.to_thread(self._remove_empty, list(files.values()))

    def _files(self, journal: Journal) -> dict[str, StoredFile]:
        """Those that have any lines, by what is in them."""
        now, keep_s = self._means.clock.now(), self.stored.keep_s
        found = {
            "output": (self.stored.output_id, journal.output_bytes),
            "error": (self.stored.error_id, journal.error_bytes),
        }
        return {
            name: StoredFile(
                id=file_id,
                created_at=now,
                expires_at=None if keep_s is None else now + timedelta(seconds=keep_s),
                size_bytes=size_bytes,
                filename=f"{self.stored.id}_{name}.jsonl",
                purpose=OUTPUT_PURPOSE,
            )
            for name, (file_id, size_bytes) in found.items()
            if size_bytes
        }

    def _leave_out(self, journal: Journal, ending: str) -> None:
        """Whoever has no line by now gets one that says why."""
        code, message = _LEFT_OUT[ending]
        with self._means.library.blobs.open(self.stored.input_id) as file:
            for line in _open_lines(file, journal):
                journal.left_out(line.custom_id, code=code, message=message)

    def _remove_empty(self, files: Sequence[StoredFile]) -> None:
        kept = {file.id for file in files}
        for file_id in {self.stored.output_id, self.stored.error_id} - kept:
            self._means.library.blobs.delete(file_id)

    # What is written down

    async def _become(
        self, status: str, more: Mapping[str, Any] | None = None, *, files: Sequence[StoredFile] = ()
    ) -> None:
        """Its state from now on, on the disk before anybody is told."""
        now = int(self._means.clock.now().timestamp())
        batch = self.batch | {"status": status, f"{status}_at": now} | dict(more or {})
        told = msgspec.json.encode(batch).decode()
        settle = self._means.store.settle
        await self._written(lambda: settle(self.stored.id, status=status, batch=told, files=files))
        self._batch = batch

    async def _written(self, write: Callable[[], Any]) -> Any:
        """Again and again, as long as there is no room for it, or no database."""
        while True:
            try:
                return await asyncio.to_thread(write)
            except (StorageFull, ConfigError, OSError) as error:
                logger.warning("%s waits, since nothing can be written down: %s", self.stored.id, error)
                await asyncio.sleep(self._means.pace.storage_s)


def _open_lines(file: IO[bytes], journal: Journal) -> Iterator[Line]:
    return (line for line in read_lines(file) if not journal.has(line.custom_id))


def _is_hopeless(exchange: Exchange) -> bool:
    """Whether it is known that asking again would not help."""
    return exchange.error is not None and exchange.error.retryable is False
