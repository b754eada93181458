"""A real platform in a process of its own: the command line, a home, a free port, shared weights.

For end-to-end tests and benchmarks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.conformance import tap

T = TypeVar("T")
READY_S = 60


class Platform:
    """`ekiben up` as a user runs it."""

    def __init__(
        self, home: Path, weights: Path | None, *flags: str, env: dict[str, str] | None = None
    ) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        if weights is not None and not (home / "weights").exists():
            (home / "weights").symlink_to(weights, target_is_directory=True)
        self._flags = flags
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("EKIBEN_")} | (env or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._client: OpenAI | None = None

    def start(self) -> Platform:
        announced = self.home / "run" / "platform.json"
        announced.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command("up"), "--port", "0", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
            )
        deadline = time.monotonic() + READY_S
        while not announced.exists():
            assert self.process.poll() is None, f"ekiben up ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not ready in time:\n{self.log.read_text()}"
            time.sleep(0.02)
        self.url = json.loads(announced.read_text())["url"]
        tap.expect_gateway(self.url)
        return self

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ekiben.cli", "--home", str(self.home), *arguments]

    @property
    def log(self) -> Path:
        return self.home / "test-output.txt"

    @property
    def client(self) -> OpenAI:
        """The official SDK, for as long as this process of the platform runs."""
        if self._client is None:
            self._client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)
        return self._client

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def get(self, path: str) -> Any:
        """JSON of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON of a POST; of an error too."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body or {}).encode(),
            headers={"content-type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def model(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.get(f"/api/models/{name}")
        return status

    def metric(self, name: str, **labels: str) -> list[float]:
        """The values of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            families = text_string_to_metric_families(response.read().decode())
        return [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def wait_for(self, name: str, state: str, *, timeout_s: float = 60) -> dict[str, Any]:
        """The model's status once it is in the state."""
        return wait_until(
            lambda: status if (status := self.model(name))["state"] == state else None,
            f"{name} to be {state}",
            timeout_s=timeout_s,
        )

    def replica_pid(self, name: str) -> int:
        (replica,) = self.model(name)["replicas"]
        return int(replica["pid"])

    def processes(self) -> list[psutil.Process]:
        """Every process that the platform started and that is still there."""
        marker = str(self.home)
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if any(marker in part for part in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def stop(self) -> int:
        """Ctrl-C, as a user would; the exit code."""
        self._close_client()
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def kill(self) -> None:
        """kill -9 of the platform alone."""
        self._close_client()
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def wait_until(ask: Callable[[], T | None], what: str, *, timeout_s: float = 60) -> T:
    """The first answer that is not None."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer is not None:
            return answer
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)
