"""A gateway on a real port, replicas on real sockets, and a fleet that only keeps book.

The replicas are scripted byte by byte, so that each can fail in its own way.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from ekiben.catalog.catalog import Catalog
from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.errors import EkibenError, ModelNotReady
from ekiben.fleet.types import (
    Address,
    Fit,
    Lease,
    ModelStatus,
    Prefix,
    Progress,
    ReplicaStatus,
    State,
    ZygoteStatus,
)
from ekiben.gateway.app import Gateway
from ekiben.gateway.batches.run import Pace
from ekiben.gateway.http.protocol import HttpProtocol
from ekiben.gateway.http.watchdog import Patience
from ekiben.plugins.dialects import Spoken
from ekiben.plugins.discovery import Plugins, discover
from ekiben.settings import load_settings
from ekiben.store.batches import BatchStore
from ekiben.store.database import Database
from ekiben.store.files import FileStore
from ekiben.store.pictures import PictureStore
from ekiben.store.responses import ResponseStore
from ekiben.telemetry.metrics import Metrics
from tests.conformance import tap

CHAT = "smollm2-135m-instruct"
VOICE = "piper-en-us-joe"
WHISPER = "whisper-base"
PATIENCE_S = 10


class FakeFleet:
    """Grants leases on one replica for every model, and remembers who took and gave back what."""

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self.catalog = catalog
        self.folder = folder
        self.address = Address("unix", str(folder / "replica.sock"))
        self.ready = asyncio.Event()
        self.ready.set()
        self.error: EkibenError | None = None
        self.on_acquire: Callable[[int], None] | None = None
        self.waits: list[float | None] = []
        self.acquired = 0
        self.withdrawn = 0
        self.idle: list[bool] = []
        """Of each lease that was asked for, whether it was for work that nobody waits for."""
        self.leases: dict[int, Lease] = {}
        self.died: list[int] = []
        self.prefixes: list[Sequence[int] | None] = []
        self.began: list[int] = []
        self.calls: list[tuple[str, str]] = []
        self.told = Progress(state=State.LOADING, stage="loading the model", progress=0.25)
        self.changes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def acquire(
        self, model: str, *, wait_s: float | None = None, prefix: Prefix | None = None, idle: bool = False
    ) -> Lease:
        spec = self.catalog.spec(model)
        self.prefixes.append(None if prefix is None else prefix())
        self.acquired += 1
        self.idle.append(idle)
        self.waits.append(wait_s)
        if self.on_acquire is not None:
            self.on_acquire(self.acquired)
        try:
            async with asyncio.timeout(wait_s):
                await self.ready.wait()
        except TimeoutError:
            raise ModelNotReady("not ready yet", retry_after_s=7, detail=self.told.as_detail()) from None
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        if self.error is not None:
            raise self.error
        lease = Lease(id=self.acquired, model=spec.name, replica_id="r1", address=self.address)
        self.leases[lease.id] = lease
        return lease

    def first_byte(self, lease: Lease) -> None:
        self.began.append(lease.id)

    def release(self, lease: Lease, *, died: bool = False) -> None:
        del self.leases[lease.id]
        if died:
            self.died.append(lease.id)

    def progress(self, model: str) -> Progress:
        return self.told

    def status(self, model: str) -> ModelStatus:
        spec = self.catalog.spec(model)
        state = State.READY if spec.name == CHAT else State.COLD
        replica = ReplicaStatus(
            id="r1",
            model=spec.name,
            state=State.READY,
            pid=1,
            engine="llama_cpp",
            address=str(self.address),
            device="cpu",
            in_flight=len(self.leases),
            memory_bytes=None,
            started_at="2026-11-22T16:00:00+00:00",
        )
        return ModelStatus(
            name=spec.name,
            family=spec.family.value,
            state=state,
            stage=state.value,
            progress=None,
            eta_s=None,
            in_flight=len(self.leases),
            waiting=0,
            memory_bytes=None,
            unloads_in_s=None,
            error=None,
            retry_in_s=None,
            replicas=(replica,) if state is State.READY else (),
        )

    def snapshot(self) -> list[ModelStatus]:
        return [self.status(spec.name) for spec in self.catalog.specs()]

    def memory(self) -> dict[str, tuple[int | None, int]]:
        return {"cpu": (8_000_000_000, 1_500_000_000), "cuda:0": (None, 0)}

    def zygotes(self) -> list[ZygoteStatus]:
        return [ZygoteStatus(engine="glove", pid=7, warm=True, memory_bytes=1000)]

    async def load(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        self.calls.append(("load", model))
        self.waits.append(wait_s)
        return self.status(model)

    async def pull(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        self.calls.append(("pull", model))
        return self.status(model)

    async def stop(self, model: str) -> ModelStatus:
        self.calls.append(("stop", model))
        return self.status(model)

    async def forget(self, model: str) -> None:
        self.calls.append(("forget", model))

    def replaced(self, model: str) -> None:
        self.calls.append(("replaced", model))

    async def fit(self, model: str) -> Fit:
        need = {"cpu": 60}
        return Fit(model=model, fits="now", device="cpu", need=need, free={"cpu": 80}, budgets={"cpu": 100})

    def changed(self, model: str) -> None:
        self.calls.append(("changed", model))

    def log_path(self, model: str) -> Path:
        return self.folder / "replica.log"

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "snapshot", "seq": 0, "models": [{"name": CHAT}]}
        while True:
            yield await self.changes.get()


@dataclass
class Seen:
    """A request as it reached the replica."""

    head: bytes
    body: bytes
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The gateway closed the connection."""

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines if line)


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


class Replica:
    """Listens on a unix socket and answers each request by its script."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: Script = answer_json({"object": "chat.completion"})
        self.seen: list[Seen] = []
        self.arrived = asyncio.Event()
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None
            if self._serving:
                await asyncio.wait(self._serving)

    def drop_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="replica connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        seen = Seen(head, b"")
        seen.body = await reader.readexactly(int(seen.headers["content-length"]))
        self.seen.append(seen)
        self.arrived.set()
        script = asyncio.ensure_future(self.script(seen, writer))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({script, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            seen.closed.set()
            script.cancel()
            await asyncio.wait({script})
            return False
        gone.cancel()
        await asyncio.wait({gone})
        script.result()
        return not writer.is_closing()


def answer_json(value: object, *, status: int = 200) -> Script:
    body = json.dumps(value).encode()
    return answer_bytes(
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        + body
    )


def answer_bytes(*pieces: bytes, close: bool = False, pause: bool = False) -> Script:
    """Write the pieces, each on its own with `pause`, then hang up with `close`."""

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(0)
        if close:
            writer.close()

    return script


def answer_then_hang(*pieces: bytes) -> Script:
    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await asyncio.Event().wait()

    return script


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
CHUNKED_END = b"0\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str, finish: str | None = None) -> bytes:
    """One chat chunk as an event."""
    value = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": CHAT,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False
    """The connection ended before the body was whole."""

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The envelope's content, checked."""
        value = self.json()
        assert list(value) == ["error"], value
        error = value["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), error
        assert isinstance(error["message"], str) and error["message"]
        assert isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert error["code"] is None or isinstance(error["code"], str)
        assert "Traceback" not in error["message"]
        assert self.headers["content-type"] == "application/json"
        return error  # type: ignore[no-any-return]


class Client:
    """One connection to the gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        host: str | None = "127.0.0.1",
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1"]
        if host is not None:
            lines.append(f"host: {host}")
        given = {k.lower(): v for k, v in (headers or {}).items()}
        if body is not None:
            given = {"content-type": "application/json", "content-length": str(len(body))} | given
        lines += [f"{name}: {value}" for name, value in given.items()]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *rest = raw.decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), {
            k.lower(): v for k, v in (line.split(": ", 1) for line in rest if line)
        }

    async def response(self) -> Response:
        status, headers = await self.head()
        try:
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.chunks()])
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            return Response(status, headers, error.partial, cut=True)
        return Response(status, headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            data = await self.reader.readexactly(size + 2)
            yield data[:-2]
        await self.reader.readuntil(b"\r\n")

    async def dropped(self) -> bool:
        """Whether the gateway closes the connection without another byte; waits for it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    def hang_up(self) -> None:
        self.writer.transport.abort()


@dataclass
class Lab:
    gateway: Gateway
    fleet: FakeFleet
    replica: Replica
    metrics: Metrics
    port: int

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        host: str | None = "127.0.0.1",
    ) -> Response:
        client = await self.client()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await client.send(method, path, body, headers, host=host)
                return await client.response()
        finally:
            client.hang_up()

    async def chat(
        self, *, stream: bool = False, headers: dict[str, str] | None = None, **more: Any
    ) -> Response:
        return await self.ask("POST", "/v1/chat/completions", chat_body(stream=stream, **more), headers)

    async def settled(self) -> None:
        """No request is under way any more and every lease is back."""
        await until(lambda: not self.fleet.leases and not self.gateway.busy)


async def until(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """For what has no event to wait for."""
    async with asyncio.timeout(within_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def chat_body(*, stream: bool = False, model: object = CHAT, **more: Any) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": model, "messages": messages, "stream": stream} | more).encode()


@functools.cache
def shared_catalog() -> tuple[Catalog, Plugins]:
    """Reading the built-in specs takes longer than a test; who adds a model takes it out again."""
    plugins = discover()
    return Catalog(shared_database(), plugins), plugins


@functools.cache
def shared_responses() -> ResponseStore:
    """For tests that look only at what they made themselves."""
    return ResponseStore(shared_database())


@functools.cache
def shared_database() -> Database:
    folder = tempfile.TemporaryDirectory(prefix="gw-catalog-")
    atexit.register(folder.cleanup)
    database = Database.open(f"sqlite:///{folder.name}/ekiben.db")
    atexit.register(database.close)
    return database


@asynccontextmanager
async def running_lab(
    *,
    patience: Patience | None = None,
    plugins: Plugins | None = None,
    spoken: Sequence[Spoken] = (),
    responses: ResponseStore | None = None,
    database: Database | None = None,
    folder: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
    **flags: Any,
) -> AsyncIterator[Lab]:
    """Everything started, and checked at the end: nothing may be left of any request.

    `folder`: a home that outlives the lab, with what `database` has of it.
    """
    given, folder = folder, folder or Path(tempfile.mkdtemp(prefix="gw-"))
    catalog, found = shared_catalog()
    fleet = FakeFleet(catalog, folder)
    replica = Replica(fleet.address.location)
    await replica.start()
    metrics = Metrics()
    metrics.watch(fleet)
    gateway = Gateway(
        fleet=fleet,
        catalog=catalog,
        plugins=plugins or found,
        settings=load_settings({"home": folder, **flags}, environment={}),
        metrics=metrics,
        responses=responses or shared_responses(),
        pictures=PictureStore(folder / "pictures", keep_s=3600, clock=SYSTEM_CLOCK),
        files=FileStore(database or shared_database()),
        batches=BatchStore(database or shared_database()),
        clock=clock,
        pace=Pace(concurrency=4, retries_s=(0.0,), storage_s=0.01),
        patience=patience or Patience(),
        spoken=spoken,
    )
    await gateway.startup()
    server = await listen(gateway)
    lab = Lab(gateway, fleet, replica, metrics, server.sockets[0].getsockname()[1])
    tap.leave_out(f"http://127.0.0.1:{lab.port}")
    try:
        yield lab
        await lab.settled()
    finally:
        server.close()
        await gateway.shutdown()
        await replica.stop()
        if given is None:
            shutil.rmtree(folder, ignore_errors=True)


async def listen(gateway: Gateway) -> asyncio.Server:
    """uvicorn's protocol without the waits in uvicorn's server."""
    config = uvicorn.Config(
        gateway,
        http=HttpProtocol,
        lifespan="off",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: HttpProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
