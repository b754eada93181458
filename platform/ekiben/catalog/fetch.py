"""Running one source in its worker process: its lines, its silence, its end.

What is fetched where, and who else wants it, is the business of `weights`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ekiben.contract.source import FetchProgress
from ekiben.errors import FetchFailed
from ekiben.plugins.fetch_worker import WorkerRequest

_LINE_LIMIT_BYTES: Final = 1 << 20
_KEPT_STDERR_BYTES: Final = 8192
_LAST_WORDS_S: Final = 1.0


class DiskFull(FetchFailed):
    """The weights did not fit; what there is of them only takes up room."""


async def run_worker(
    request: WorkerRequest,
    *,
    environment: Mapping[str, str],
    lock: int,
    stall_timeout_s: float,
    report: Callable[[FetchProgress], None],
) -> Path:
    """The path that the source returns. Raises FetchFailed; cancelling kills the worker first.

    `lock` is a descriptor that the worker keeps open as long as it lives.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ekiben.plugins.fetch_worker"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(environment),
        pass_fds=(lock,),
        start_new_session=True,
        limit=_LINE_LIMIT_BYTES,
    )
    complaints = asyncio.create_task(_last_of(process.stderr), name=f"fetch {request.kind}: stderr")
    try:
        last_line = await _follow(process, request, stall_timeout_s=stall_timeout_s, report=report)
    finally:
        _kill(process)
        code = await process.wait()
        # A stray grandchild may hold the pipe open; it is not worth waiting for.
        await asyncio.wait({complaints}, timeout=_LAST_WORDS_S)
        complaints.cancel()
    return _outcome(last_line, kind=request.kind, code=code, said=_result_of(complaints))


def worker_request(
    kind: str, *, object_path: str, parameters: Mapping[str, Any], folder: Path, progress_file: Path
) -> WorkerRequest:
    """A request whose worker dies with this process."""
    return WorkerRequest(
        kind=kind,
        object=object_path,
        parameters=dict(parameters),
        folder=str(folder),
        progress_file=str(progress_file),
        parent_pid=os.getpid(),
    )


async def _follow(
    process: Process,
    request: WorkerRequest,
    *,
    stall_timeout_s: float,
    report: Callable[[FetchProgress], None],
) -> dict[str, Any]:
    """Report progress until the last line, which is returned; empty if there was none."""
    assert process.stdin is not None and process.stdout is not None
    loop = asyncio.get_running_loop()
    latest: dict[str, Any] | None = None
    try:
        async with asyncio.timeout(stall_timeout_s) as silence:
            with suppress(BrokenPipeError, ConnectionResetError):  # its end is told by what follows
                process.stdin.write(json.dumps(asdict(request), default=str).encode())
                await process.stdin.drain()
                process.stdin.close()
            async for line in process.stdout:
                message = json.loads(line)
                if "progress" not in message:
                    return dict(message)
                if message["progress"] != latest:
                    latest = message["progress"]
                    silence.reschedule(loop.time() + stall_timeout_s)
                    report(FetchProgress(**message["progress"]))
    except TimeoutError:
        raise FetchFailed(
            f"the source {request.kind!r} was given up: nothing came for {stall_timeout_s:g} s; "
            "check the network and try again, what has come so far is kept"
        ) from None
    except ValueError as error:  # not JSON, or an endless line
        raise FetchFailed(f"the worker of source {request.kind!r} spoke out of turn: {error}") from None
    return {}


def _outcome(last_line: Mapping[str, Any], *, kind: str, code: int, said: str) -> Path:
    if "done" in last_line:
        return Path(last_line["done"])
    if "error" in last_line:
        message = str(last_line["error"])
        raise DiskFull(message) if last_line.get("disk_full") else FetchFailed(message)
    reason = said.strip().rpartition("\n")[2][:300] or "it said nothing"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise FetchFailed(f"the worker of source {kind!r} {how}: {reason}")


def _kill(process: Process) -> None:
    """It, and whatever it started: they share a process group of their own."""
    if process.returncode is None:
        with suppress(ProcessLookupError):  # gone this moment
            os.killpg(process.pid, signal.SIGKILL)


def _result_of(task: asyncio.Task[str]) -> str:
    return task.result() if task.done() and not task.cancelled() else ""


async def _last_of(stream: asyncio.StreamReader | None) -> str:
    """Read to the end, keep the end."""
    kept = b""
    while stream is not None and (block := await stream.read(_KEPT_STDERR_BYTES)):
        kept = (kept + block)[-_KEPT_STDERR_BYTES:]
    return kept.decode(errors="replace")
