"""A client that leaves, at whatever moment, frees what its request held: counted at the engine itself.

A new engine joins by a line in `EYES`. The generations asked for would take minutes, so a slot that is free
after seconds was freed by the disconnect; how many seconds says only how busy the machine is.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.running import Platform, wait_until

SLOTS: Final = 2
ENDLESS: Final = {"max_tokens": 3500, "ignore_eos": True, "temperature": 0}
LONG_PROMPT: Final = "All work and no play makes Jack a dull boy. " * 300


def llama_slots(platform: Platform) -> list[dict[str, Any]]:
    """What llama.cpp says of its slots, asked past Ekiben."""
    (path,) = platform.home.rglob("llama.sock")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://llama") as client:
        slots: list[dict[str, Any]] = client.get("/slots").json()
    return slots


def llama_busy(platform: Platform) -> int:
    return sum(slot["is_processing"] for slot in llama_slots(platform))


EYES: Final[dict[str, Callable[[Platform], int]]] = {"llama_cpp": llama_busy}
"""How many requests an engine works on."""


@pytest.fixture(scope="module", params=list(EYES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(platform: Platform, engine: str, weights: Callable[[str], Path]) -> str:
    name = f"endless-{engine}"
    source = {"kind": "local", "path": str(weights("smollm2-135m-instruct"))}
    variant = {
        "format": "gguf",
        "engine": engine,
        "source": source,
        "options": {"parallel": SLOTS, "context": 4096},
    }
    spec = {"name": name, "family": "llm", "abilities": ["chat"], "variants": [variant]}
    added = platform.post("/api/models", {"spec": spec})
    assert added["error"] is None, added
    return name


class Client:
    """A socket with one request on it."""

    def __init__(
        self, platform: Platform, model: str, content: str = "Count.", *, stream: bool = True
    ) -> None:
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": model, "messages": messages, "stream": stream, **ENDLESS}).encode()
        host, _, port = platform.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=120)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)

    def read_until(self, mark: bytes) -> None:
        seen = b""
        while mark not in seen:
            part = self._socket.recv(4096)
            assert part, seen
            seen += part

    def leave(self) -> None:
        self._socket.close()


@pytest.fixture
def busy(platform: Platform, engine: str) -> Callable[[], int]:
    return lambda: EYES[engine](platform)


def wait_for_busy(busy: Callable[[], int], count: int) -> None:
    wait_until(lambda: busy() == count or None, f"{count} requests at work in the engine", timeout_s=60)


def test_cold(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    assert platform.model(model)["state"] == "cold"
    client = Client(platform, model)
    wait_until(lambda: platform.model(model)["state"] != "cold" or None, "it to start")
    client.leave()
    wait_until(lambda: platform.model(model)["in_flight"] == 0 or None, "the request to be gone")
    platform.post(f"/api/models/{model}/load")
    platform.wait_for(model, "ready")
    assert busy() == 0, "nobody waits for the answer that it makes"


@pytest.mark.parametrize("stream", [True, False])
def test_at_work(platform: Platform, model: str, busy: Callable[[], int], stream: bool) -> None:
    client = Client(platform, model, stream=stream)
    wait_for_busy(busy, 1)
    client.leave()
    wait_for_busy(busy, 0)


def test_in_mid_stream(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    client = Client(platform, model)
    client.read_until(b'"content":')
    assert busy() == 1
    client.leave()
    wait_for_busy(busy, 0)


def test_before_the_first_token(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    client = Client(platform, model, LONG_PROMPT)
    wait_for_busy(busy, 1)
    client.leave()
    wait_for_busy(busy, 0)


def test_queued(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    running = [Client(platform, model, f"Count to {n}.") for n in range(SLOTS)]
    wait_for_busy(busy, SLOTS)
    queued = Client(platform, model)
    wait_until(lambda: platform.model(model)["in_flight"] == SLOTS + 1 or None, "one to wait")
    queued.leave()
    wait_until(lambda: platform.model(model)["in_flight"] == SLOTS or None, "the one that waits to go")
    running[0].leave()
    wait_for_busy(busy, SLOTS - 1)  # and stays so: nobody takes the free slot
    running[1].leave()
    wait_for_busy(busy, 0)
    assert platform.model(model)["in_flight"] == 0


def test_a_crowd_that_leaves_at_once(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    crowd = [Client(platform, model, stream=bool(n % 2)) for n in range(4 * SLOTS)]
    wait_for_busy(busy, SLOTS)
    for client in crowd:
        client.leave()
    wait_for_busy(busy, 0)
    wait_until(lambda: platform.model(model)["in_flight"] == 0 or None, "all requests to be gone")
    answer = platform.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hi."}], max_tokens=2
    )
    assert answer.choices[0].message.content
