"""PDF files from clients: their pages as pictures, drawn one by one in a process that may be ended.

Nothing of the file is read in this process. The program is `ekiben.runtime.vision.pdf_pages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from ekiben.errors import InvalidRequest
from ekiben.runtime.vision.darkroom import Source
from ekiben.runtime.vision.images import MAX_FILE_BYTES

PDF_TYPE: Final = "application/pdf"
MAX_PAGES: Final = 100
"""Of one request."""
MAX_DOCUMENTS: Final = 2
"""That are drawn at once."""
PAGE_TIMEOUT_S: Final = 20.0
_MAGIC: Final = b"%PDF-"
_MAX_PNG_BYTES: Final = 64 * 2**20


class Pages:
    """An open document."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.count = 0
        """How many pages it has, of which not all need be asked for."""

    async def open(self) -> None:
        """Learn what it is. Raises InvalidRequest."""
        said = json.loads(await self._within_time(self._output.readline()) or b'{"error": "cannot be read"}')
        if "error" in said:
            raise _invalid(said["error"])
        self.count = said["pages"]

    async def pictures(self, numbers: range) -> AsyncGenerator[tuple[int, bytes], None]:
        """Each page by its number. Raises InvalidRequest."""
        for number in numbers:
            try:
                size_bytes = int.from_bytes(await self._within_time(self._output.readexactly(4)), "big")
                if size_bytes > _MAX_PNG_BYTES:
                    raise _invalid(f"has a page {number} that is too large when drawn")
                yield number, await self._within_time(self._output.readexactly(size_bytes))
            except asyncio.IncompleteReadError:
                raise _invalid(f"has a page {number} that cannot be drawn") from None

    @property
    def _output(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None, "started with a pipe"
        return self._process.stdout

    async def _within_time(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                return await reading
        except TimeoutError:
            raise _invalid(f"takes longer than {PAGE_TIMEOUT_S:g} seconds for a page") from None


def is_pdf(source: Source) -> bool:
    """By its first bytes. Blocking, quick."""
    if isinstance(source, bytes):
        return source.startswith(_MAGIC)
    with source.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@asynccontextmanager
async def opened(
    source: Source, *, first: int, last: int | None
) -> AsyncGenerator[tuple[Pages, range], None]:
    """A document, and the numbers of the pages that were asked for. Raises InvalidRequest."""
    if importlib.util.find_spec("pypdfium2") is None:
        raise _invalid("cannot be read here: install pypdfium2, or send its pages as pictures")
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_DOCUMENTS))
    async with turn, _file(source) as path, _process(path, first=first, last=last) as process:
        pages = Pages(process)
        await pages.open()
        yield pages, _chosen(pages.count, first=first, last=last)


def _chosen(count: int, *, first: int, last: int | None) -> range:
    if first > count:
        raise InvalidRequest(f"there is no page {first}: the PDF has {count}", param="first_page")
    if last is not None and last < first:
        raise InvalidRequest(f"the last page is before page {first}", param="last_page")
    chosen = range(first, min(last or count, count) + 1)
    if len(chosen) > MAX_PAGES:
        raise InvalidRequest(
            f"{len(chosen)} pages are more than the {MAX_PAGES} that one request may have: send last_page",
            param="last_page",
        )
    return chosen


@asynccontextmanager
async def _file(source: Source) -> AsyncGenerator[Path, None]:
    size_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise _invalid(f"has {size_bytes:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    if isinstance(source, Path):
        yield source
        return
    with tempfile.NamedTemporaryFile(prefix="ekiben-upload-", suffix=".pdf") as file:
        await asyncio.to_thread(file.write, source)
        file.flush()
        yield Path(file.name)


@asynccontextmanager
async def _process(
    path: Path, *, first: int, last: int | None
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """One that draws the pages, and is gone afterwards."""
    pages = (str(first), str(min(last or first + MAX_PAGES, first + MAX_PAGES)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ekiben.runtime.vision.pdf_pages", str(path), *pages),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the PDF {reason}", param="image")


_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()
