"""A zygote: `python -m ekiben.runtime.zygote CONTROL_FD ENGINE BENTO FOLDER`, started by the fleet.

A process in which everything is imported and built that replicas of one engine have in common, and no
model is loaded. Asked on its control socket, it forks a replica, which is made a child of the platform:
it does not matter to replicas whether their zygote lives on.

It has one thread, or it refuses to be a zygote: locks that other threads hold would stay locked in its
children for ever. It ends with the platform, or when the control socket is closed.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ekiben.contract.parent import die_with_parent
from ekiben.plugins.discovery import Plugin, load_object
from ekiben.runtime.protocol import ForkRequest, Order, ZygoteNews
from ekiben.settings import export

if TYPE_CHECKING:
    from ekiben.runtime.bento import EkibenService

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 65536
_FDS: Final = 2
_GO: Final = b"go"


def main(arguments: list[str]) -> NoReturn:
    """Warm up, then fork whenever asked."""
    parent_pid = os.getppid()
    die_with_parent(parent_pid)
    control_fd, engine_id, bento, folder = arguments
    control = socket.socket(fileno=int(control_fd))
    control.set_inheritable(False)
    try:
        zygote = Zygote(engine_id, control=control, bento=Path(bento), folder=Path(folder))
    except Exception as error:  # noqa: BLE001 - whatever a library's import raises
        _tell(control, ZygoteNews(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        os._exit(1)
    _tell(control, ZygoteNews())
    zygote.serve()


class Zygote:
    """Warm once it is made. Raises whatever the imports raise, and RuntimeError if they start threads."""

    def __init__(self, engine_id: str, *, control: socket.socket, bento: Path, folder: Path) -> None:
        from ekiben.runtime.host import installed
        from ekiben.runtime.replica import export_folder, load_service, log_to_standard_error

        log_to_standard_error()
        export_folder(folder)
        self._control = control
        self._bento = bento
        self._service: EkibenService = load_service(bento)
        self._service.prebuild()
        _import_engine(installed().engines()[engine_id])
        _import_server()
        _stop_idle_threads()
        if (threads := _thread_count()) > 1:
            raise RuntimeError(f"an import has started threads: there are {threads}")
        gc.collect()
        gc.freeze()  # so that the collector writes to no page that children share

    def serve(self) -> NoReturn:
        """Fork when asked, until the control socket is closed."""
        while True:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, _FDS)
            if not data:
                os._exit(0)
            try:
                pid, go = self._fork(ForkRequest.model_validate_json(data), fds)
            except (OSError, RuntimeError, ValueError) as error:
                _tell(self._control, ZygoteNews(error=f"{type(error).__name__}: {error}"))
                continue
            finally:
                for fd in fds:
                    os.close(fd)
            _tell(self._control, ZygoteNews(pid=pid))
            os.write(go, _GO)
            os.close(go)

    def _fork(self, request: ForkRequest, fds: list[int]) -> tuple[int, int]:
        """The replica's process id, and where it waits for permission to begin.

        There is a process in between that ends at once: its child is the platform's from then on.
        """
        if len(fds) != _FDS or (threads := _thread_count()) > 1:
            raise RuntimeError(f"cannot fork with {len(fds)} file descriptors and {threads} threads")
        pid_read, pid_write = os.pipe()
        go_read, go_write = os.pipe()
        try:
            between = os.fork()
            if between == 0:
                _fork_once_more(pid_write)
                os.close(pid_read)
                os.close(pid_write)
                os.close(go_write)
                self._become_replica(request, fds, go_read)
            os.waitpid(between, 0)
            os.close(pid_write)
            pid_write = -1
            answer = os.read(pid_read, 32)
            if not answer:
                raise RuntimeError("the second fork failed")
            return int(answer), go_write
        except BaseException:
            os.close(go_write)
            raise
        finally:
            for fd in (pid_read, go_read, *([pid_write] if pid_write >= 0 else [])):
                os.close(fd)

    def _become_replica(self, request: ForkRequest, fds: list[int], go: int) -> NoReturn:
        """In the replica. Until it is told to go, it ends with the zygote's process group."""
        from ekiben.runtime.replica import run_replica

        self._control.close()
        try:
            order = Order.model_validate_json(request.order.read_bytes())
            report_fd, log_fd = fds
            _take_streams(log_fd)
            _seed_generators()
            if os.read(go, len(_GO)) != _GO:
                os._exit(1)  # the zygote died before it could tell of this process
            os.close(go)
            os.setsid()
            export({"EKIBEN_ORDER": str(request.order)})
            service = self._service if order.bento == self._bento else None
            run_replica(order.model_copy(update={"report_fd": report_fd}), service=service)
        except BaseException:
            logger.exception("the replica could not be begun")
            os._exit(1)


def _fork_once_more(pid_fd: int) -> None:
    """Returns in the new process only. The one in between tells its id and ends."""
    try:
        if (pid := os.fork()) == 0:
            return
        os.write(pid_fd, str(pid).encode())
    except OSError as error:
        logger.error("no second fork: %s", error)
    os._exit(0)


def _tell(control: socket.socket, news: ZygoteNews) -> None:
    control.send(news.model_dump_json(exclude_none=True).encode())


def _import_engine(plugin: Plugin) -> None:
    from ekiben.runtime.dialects import spoken_dialects
    from ekiben.runtime.routing import routes_of, warm

    section = plugin.manifest.engine
    assert section is not None, "discovery lets no engine pass without its section"
    load_object(plugin)
    for name in section.preload:
        import_module(name)
    abilities = frozenset(section.abilities)
    routes_of(abilities)
    spoken_dialects()
    warm(abilities)


def _import_server() -> None:
    """What uvicorn, asyncio, Starlette and BentoML import when they begin."""
    for name in (
        "_bentoml_impl.client",
        "anyio._backends._asyncio",
        "anyio.from_thread",
        "bentoml._internal.server.metrics.prometheus",
        "bentoml.container",
        "importlib.readers",
        "importlib.resources.readers",
        "prometheus_client.multiprocess",
        "prometheus_client.parser",
        "pydantic._internal._dataclasses",
        "ekiben.runtime.metrics",
        "ekiben.runtime.server",
        "concurrent.futures.thread",
        "uvicorn.lifespan.on",
        "uvicorn.protocols.http.httptools_impl",
        "uvloop",
    ):
        import_module(name)


def _stop_idle_threads() -> None:
    """Some libraries of numbers start threads when they are imported, end them before a fork, and start
    them again in whoever computes next: so here they are ended for good."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _thread_count() -> int:
    """Of the kernel's, not Python's: libraries have threads of their own."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _take_streams(log_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(null)
    os.close(log_fd)


def _seed_generators() -> None:
    """Python seeds its own after a fork; torch begins every process with the same seed anyway."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


if __name__ == "__main__":
    main(sys.argv[1:])
