"""Bentos and replicas in processes of their own, with a parrot for an engine where no model is needed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI

from ekiben.contract.model import ModelSpec
from ekiben.fleet.processes.berths import Plan
from ekiben.runtime.protocol import Order, Report, Stage

ROOT = Path(__file__).parents[2]
PARROT = Path(__file__).parent / "parrot"
READY_S = 60
BENTOML = Path(sys.executable).with_name("bentoml")


def parrot_spec(cracker: Path, **options: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "polly",
            "aliases": ["pretty-polly"],
            "family": "llm",
            "abilities": ["chat"],
            "variants": [
                {
                    "format": "cracker",
                    "engine": "parrot",
                    "options": options,
                    "source": {"kind": "local", "path": str(cracker)},
                }
            ],
        }
    )


def parrot_plan(cracker: Path, *, device: str = "cpu", **options: Any) -> Plan:
    return Plan(
        model=parrot_spec(cracker, **options),
        variant=0,
        weights=cracker,
        bento=ROOT / "bentos" / "llm",
        device=device,
        threads=1,
    )


class Replica:
    """`python -m ekiben.runtime.replica`, as the fleet starts it."""

    def __init__(
        self, order: Order, process: subprocess.Popen[bytes], channel: socket.socket, log: Path
    ) -> None:
        self.order = order
        self.process = process
        self.channel = channel
        self._reports = channel.makefile()
        self._log = log

    def next_report(self) -> Report:
        """Waits for it; fails the test when the replica ends without one."""
        line = self._reports.readline()
        assert line, f"the replica ended with {self.process.wait()}:\n{self.log}"
        return Report.model_validate_json(line)

    def report_of(self, stage: Stage) -> Report:
        """The next report of the stage; those before it are dropped."""
        while (report := self.next_report()).stage is not stage:
            assert report.stage is not Stage.FAILED, report.error
        return report

    @property
    def log(self) -> str:
        return self._log.read_text()

    def client(self) -> httpx.Client:
        """To be closed by the caller."""
        transport = httpx.HTTPTransport(uds=str(self.order.socket))
        return httpx.Client(transport=transport, base_url="http://replica", timeout=30)

    def ask(self, path: str, body: object = None, *, method: str = "POST") -> httpx.Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.request(method, path, json=body)

    @contextmanager
    def chat(self, text: str) -> Iterator[Iterator[str]]:
        """The events of a streamed chat, as they come."""
        body = {"model": "polly", "messages": [{"role": "user", "content": text}], "stream": True}
        with self.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            yield (line.removeprefix("data: ") for line in lines if line)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reports.close()
        self.channel.close()


class Served:
    """`bentoml serve`, as a user runs it."""

    def __init__(self, target: str, folder: Path, *arguments: str, env: dict[str, str]) -> None:
        self._log = folder / "serve-output.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("EKIBEN_", "BENTOML_"))}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [BENTOML, "serve", target, "--host", "127.0.0.1", "--port", str(port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                start_new_session=True,
                env=inherited
                | {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
                | env,
            )

    def wait_until_ready(self) -> Served:
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            assert self.process.poll() is None, f"bentoml serve ended:\n{self.log}"
            assert time.monotonic() < deadline, f"not ready in time:\n{self.log}"
            time.sleep(0.05)
        return self

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, **what: Any) -> httpx.Response:
        """`json=` or `files=`, to BentoML's own API."""
        return httpx.post(self.url + path, timeout=60, **what)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        """Ends it, and says whether it went as it should."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=20) == 0, self.log

    def _is_ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False
