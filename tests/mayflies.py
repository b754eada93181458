"""Models of the mayfly engine on a real platform: they die in every way that a test asks for."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from tests.running import Platform, wait_until

ENGINE = Path(__file__).parent / "fixtures" / "mayfly"


def install(site: Path) -> dict[str, str]:
    """Variables with which the engine is an installed plugin; `site` is a new folder for that."""
    info = site / "ekiben_mayfly-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ekiben-mayfly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ekiben.plugins]\nmayfly = ekiben_mayfly\n")
    path = (str(site), str(ENGINE), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def mayfly_spec(name: str, weights: Path, **more: Any) -> dict[str, Any]:
    variant = {"format": "larva", "engine": "mayfly", "source": {"kind": "local", "path": str(weights)}}
    return {"name": name, "family": "llm", "abilities": ["chat"], "variants": [variant]} | more


class Mayfly:
    """One model. Its script is in `ekiben_mayfly.engine`."""

    def __init__(
        self, platform: Platform, name: str, folder: Path, *, load: str = "", unload: str = "", **spec: Any
    ) -> None:
        self.platform = platform
        self.name = name
        self.weights = folder / f"{name}.larva"
        self.become(load=load, unload=unload)
        added = platform.post("/api/models", {"spec": mayfly_spec(name, self.weights, **spec)})
        assert added["error"] is None, added

    def become(self, *, load: str = "", unload: str = "") -> None:
        """What the next replica does when it loads and when it unloads."""
        self.weights.write_text(f"{load}\n{unload}\n")

    def open_gate(self) -> None:
        """Let pass what waits at `!gate`, now and later."""
        self.weights.with_suffix(".gate").touch()

    def ask(self, text: str = "hello", **options: Any) -> str:
        """The answer. Raises the SDK's errors."""
        answer = self.platform.client.chat.completions.create(
            model=self.name, messages=[{"role": "user", "content": text}], **options
        )
        return str(answer.choices[0].message.content)

    @contextmanager
    def stream(self, text: str) -> Iterator[IO[bytes]]:
        """The body of a streamed answer, as it comes."""
        message = {"role": "user", "content": text}
        body = {"model": self.name, "messages": [message], "stream": True}
        request = urllib.request.Request(
            f"{self.platform.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            yield response

    @property
    def status(self) -> dict[str, Any]:
        return self.platform.model(self.name)

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def pid(self) -> int:
        return self.platform.replica_pid(self.name)

    def wait_for(self, state: str) -> dict[str, Any]:
        return self.platform.wait_for(self.name, state)

    @property
    def loads(self) -> list[int]:
        """The process ids of all that ever began to load it."""
        return [int(line) for line in self._notes(".loads")]

    @property
    def living(self) -> list[int]:
        """Those of them that are still there."""
        return [pid for pid in self.loads if is_alive(pid)]

    @property
    def cancelled(self) -> list[str]:
        """What each request that was broken off had heard until then."""
        return self._notes(".cancelled")

    def wait_for_load(self, count: int = 1) -> int:
        """The process id of the load with that number, counted from 1, once it has begun."""
        return wait_until(
            lambda: self.loads[count - 1] if len(self.loads) >= count else None,
            f"load {count} of {self.name}",
        )

    def _notes(self, suffix: str) -> list[str]:
        path = self.weights.with_suffix(suffix)
        return path.read_text().splitlines() if path.exists() else []


def hear(body: IO[bytes], word: str) -> None:
    """Read until the word was spoken, over what is said of the wait for the model."""
    line = b": "
    while f'"{word} "'.encode() not in line:
        assert line, f"the answer ended before {word!r}"
        line = body.readline()


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def last_event(body: bytes) -> dict[str, Any]:
    """The content of a stream's last event, which must be whole."""
    assert body.endswith(b"\n\n"), body[-200:]
    event: dict[str, Any] = json.loads(body.strip().rpartition(b"\n\n")[2].removeprefix(b"data: "))
    return event
