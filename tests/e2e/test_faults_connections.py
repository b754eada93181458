"""Connections that end at the wrong moment, and strangers at known addresses: rows D10, D11 and D14."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from openai import AsyncOpenAI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ekiben.catalog.weights import WeightsStore
from ekiben.contract import FetchFailed, SourceSpec
from ekiben.gateway.http.protocol import HttpProtocol
from ekiben.gateway.relay import upstream
from ekiben.plugins.discovery import discover
from tests.command_line import CommandLine, assert_fails
from tests.conformance import tap
from tests.integration.gateway_lab import CHAT, running_lab
from tests.mayflies import Mayfly, is_alive
from tests.running import Platform

IDLE_S = 0.05
"""After so long a time the side under test closes an idle connection."""
CLIENTS = 20
ROUNDS = 25


# D10


@asynccontextmanager
async def serving(app: Any, protocol: type[HttpToolsProtocol], **where: Any) -> AsyncIterator[asyncio.Server]:
    """uvicorn's protocol that closes idle connections after `IDLE_S`; its waits are not needed."""
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, access_log=False)
    config.timeout_keep_alive = IDLE_S  # type: ignore[assignment]  # whole seconds are a long time here
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()

    def connect() -> asyncio.Protocol:
        return protocol(config=config, server_state=state, app_state={})

    if "path" in where:
        server = await loop.create_unix_server(connect, **where)
    else:
        server = await loop.create_server(connect, **where)
    try:
        yield server
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()


async def polite_replica(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"object": "chat.completion"}).encode()})


async def ask_at_the_wrong_moment(client: AsyncOpenAI, times: int) -> None:
    """Always when the connection that was used last is about to be closed."""
    for _ in range(times):
        await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "hi"}])
        await asyncio.sleep(IDLE_S * random.uniform(0.9, 1.1))


async def test_d10_replica_closes_idle_connections_when_they_are_used_again() -> None:
    """Nobody repeats but the gateway: each request must get its answer."""
    async with running_lab() as lab:
        await lab.replica.stop()
        Path(lab.fleet.address.location).unlink(missing_ok=True)
        async with serving(polite_replica, HttpToolsProtocol, path=lab.fleet.address.location):
            async with AsyncOpenAI(
                base_url=f"http://127.0.0.1:{lab.port}/v1", api_key="x", max_retries=0
            ) as client:
                await asyncio.gather(*(ask_at_the_wrong_moment(client, ROUNDS) for _ in range(CLIENTS)))
            await lab.settled()
        assert lab.fleet.died == []


async def test_d10_gateway_closes_idle_connections_to_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "KEEP_IDLE_S", IDLE_S)
    async with running_lab() as lab:

        async def sweep_often() -> None:
            while True:
                await asyncio.sleep(IDLE_S / 5)
                lab.gateway._upstreams.sweep()

        sweeping = asyncio.create_task(sweep_often())
        async with AsyncOpenAI(
            base_url=f"http://127.0.0.1:{lab.port}/v1", api_key="x", max_retries=0
        ) as client:
            await asyncio.gather(*(ask_at_the_wrong_moment(client, ROUNDS) for _ in range(CLIENTS)))
        sweeping.cancel()
        await lab.settled()
        assert lab.fleet.died == []


async def test_d10_gateway_closes_idle_connections_of_clients() -> None:
    """A client that keeps them longer than the server repeats by itself, as the official ones do."""
    async with running_lab() as lab, serving(lab.gateway, HttpProtocol, host="127.0.0.1", port=0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tap.leave_out(url)  # the lab's replica answers with next to nothing
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
            await asyncio.gather(*(ask_at_the_wrong_moment(client, 5) for _ in range(CLIENTS)))


# D11


class Stranger(http.server.BaseHTTPRequestHandler):
    """Some other program, which answers everything with a page."""

    def do_GET(self) -> None:
        body = b"<html>hello</html>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to know."""


class StrangersServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no concern of a stranger."""


@contextmanager
def stranger(port: int = 0) -> Iterator[int]:
    with StrangersServer(("127.0.0.1", port), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_d11_port_of_a_killed_platform_is_used_by_a_stranger(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str]
) -> None:
    platform = make_platform(env=with_mayflies).start()
    port = int(platform.url.rpartition(":")[2])
    platform.kill()
    with stranger(port):
        for command in (("ps",), ("load", CHAT), ("run", CHAT, "hello")):
            assert_fails(CommandLine(platform.home)(*command), "no platform runs")


def test_d11_process_id_of_a_replica_is_used_by_a_stranger(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str], tmp_path: Path
) -> None:
    """After a crash and a reboot, the notes of a platform are about somebody else."""
    platform = make_platform(env=with_mayflies).start()
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    (note,) = (platform.home / "run").glob("replicas/*/process")
    text = note.read_text()
    pid = fly.pid
    platform.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(text.replace(str(pid), str(innocent.pid), 1))
            platform.start()
            assert fly.ask() == "hello"
            assert fly.pid != innocent.pid and is_alive(innocent.pid)
            assert platform.stop() == 0
            assert is_alive(innocent.pid)
        finally:
            innocent.kill()


@pytest.mark.parametrize(
    ("index", "said"),
    [("https://no-such-host.invalid", "no-such-host.invalid"), ("https://127.0.0.1:{port}", "SSL")],
    ids=["no such host", "no TLS there"],
)
async def test_d11_source_that_cannot_be_reached_says_why(tmp_path: Path, index: str, said: str) -> None:
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    file = {"path": "m.gguf", "member": "tiny/model.gguf", "sha256": "0" * 64}
    source = SourceSpec.model_validate(
        {"kind": "pypi", "package": "tiny-weights", "version": "1.0", "files": [file]}
    )
    with stranger() as port:
        index_url = f"{index.format(port=port)}/simple"
        environment = {**os.environ, **pip, "PIP_INDEX_URL": index_url}
        store = WeightsStore(tmp_path, discover(), environment=environment)
        with pytest.raises(FetchFailed, match=said):
            await store.ensure(source, report=lambda progress: None)


# D14


def test_d14_slow_readers_of_metrics_slow_nobody(hatch: Callable[..., Mayfly]) -> None:
    fly = hatch()
    fly.ask()
    host, port = fly.platform.url.removeprefix("http://").split(":")
    request = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with contextlib.ExitStack() as readers:
        for _ in range(50):
            reader = socket.socket()
            readers.enter_context(reader)
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            reader.connect((host, int(port)))
            reader.sendall(request * 5)
        assert [fly.ask() for _ in range(20)] == ["hello"] * 20
        assert fly.platform.get("/api/replicas")["replicas"]
    assert fly.ask() == "hello"


def test_d14_metrics_of_a_hung_replica_are_told_without_it(hatch: Callable[..., Mayfly]) -> None:
    fly, other = hatch(), hatch("other")
    fly.ask()
    with suspended(fly.pid):
        host, port = fly.platform.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert other.ask() == "hello"


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    psutil.Process(pid).suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()
