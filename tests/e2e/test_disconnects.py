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

from tests.conformance.engines import GGUF_MODEL, LESS_OFTEN, equip, folder_spec
from tests.running import Platform, wait_until

SLOTS: Final = 2
CONTEXT: Final = 4096
OPTIONS: Final = {
    "llama_cpp": {"parallel": SLOTS, "context": CONTEXT},
    "transformers": {"parallel": SLOTS, "context": CONTEXT},
    "vllm": {"max_num_seqs": SLOTS, "max_model_len": CONTEXT, "kv_cache_mb": 512},
}
ENDLESS: Final[dict[str, Any]] = {"max_tokens": 3500, "ignore_eos": True, "temperature": 0}
LONG_PROMPT: Final = "All work and no play makes Jack a dull boy. " * 300
BESIDE_IT: Final = 300
"""Tokens for which there is room in the context after the long prompt."""


def llama_slots(platform: Platform) -> list[dict[str, Any]]:
    """What llama.cpp says of its slots, asked past Ekiben."""
    path = next(platform.home.rglob("llama.sock"), None)
    if path is None:
        return []
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://llama") as client:
        answer = client.get("/slots")
    slots: list[dict[str, Any]] = answer.json() if answer.is_success else []  # while it loads
    return slots


def llama_busy(platform: Platform, _: str) -> int:
    return sum(slot["is_processing"] for slot in llama_slots(platform))


def rows(platform: Platform, model: str) -> int:
    """What the engine says when it is asked for the replica's metrics."""
    return int(sum(platform.metric("ekiben_engine_answers_at_work", model=model)))


def vllm_running(platform: Platform, model: str) -> int:
    """What vLLM's scheduler tells of itself after each step."""
    return int(sum(platform.metric("vllm:num_requests_running", model=model)))


EYES: Final[dict[str, Callable[[Platform, str], int]]] = {
    "llama_cpp": llama_busy,
    "transformers": rows,
    "vllm": vllm_running,
}
"""How many answers an engine works on for a model."""


@pytest.fixture(scope="module", params=LESS_OFTEN)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(platform: Platform, engine: str, weights: Callable[[str], Path]) -> str:
    equip(platform, engine)
    name = f"endless-{engine}"
    added = platform.post("/api/models", {"spec": endless_spec(name, engine, weights)})
    assert added["error"] is None, added
    return name


def endless_spec(name: str, engine: str, weights: Callable[[str], Path]) -> dict[str, Any]:
    if engine == "llama_cpp":
        source = {"kind": "local", "path": str(weights(GGUF_MODEL))}
        variant = {"format": "gguf", "engine": engine, "source": source}
        spec: dict[str, Any] = {"name": name, "family": "llm", "abilities": ["chat"], "variants": [variant]}
    else:
        spec = folder_spec(name, engine)
    spec["variants"][0]["options"] = OPTIONS[engine]
    return spec


class Client:
    """A socket with one request on it."""

    def __init__(
        self, platform: Platform, model: str, content: str = "Count.", *, stream: bool = True, **more: Any
    ) -> None:
        messages = [{"role": "user", "content": content}]
        fields = {"model": model, "messages": messages, "stream": stream, **ENDLESS, **more}
        body = json.dumps(fields).encode()
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
def busy(platform: Platform, engine: str, model: str) -> Callable[[], int]:
    return lambda: EYES[engine](platform, model)


def tokens_made(platform: Platform, engine: str, model: str) -> int:
    name = "vllm:generation_tokens_total" if engine == "vllm" else "ekiben_engine_tokens_made_total"
    return int(sum(platform.metric(name, model=model)))


class Tokens:
    """Those that an engine makes for a model from now on."""

    def __init__(self, platform: Platform, engine: str, model: str) -> None:
        self._look: Callable[[], int] = lambda: tokens_made(platform, engine, model)
        self._before = self._look()

    def wait(self) -> None:
        wait_until(lambda: self._look() > self._before or None, "tokens to be made", timeout_s=60)

    def check_counted(self) -> None:
        """Of one request that was broken off."""
        assert 0 < self._look() - self._before < ENDLESS["max_tokens"], "what was made counts, and no more"


@pytest.fixture
def tokens(platform: Platform, engine: str, model: str) -> Tokens:
    return Tokens(platform, engine, model)


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
def test_at_work(
    platform: Platform, model: str, busy: Callable[[], int], tokens: Tokens, stream: bool
) -> None:
    client = Client(platform, model, stream=stream)
    tokens.wait()
    client.leave()
    wait_for_busy(busy, 0)
    tokens.check_counted()


def test_in_mid_stream(platform: Platform, engine: str, model: str, busy: Callable[[], int]) -> None:
    client = Client(platform, model)
    client.read_until(b'"content":')
    wait_for_busy(busy, 1)
    if engine != "vllm":
        wait_for_busy(lambda: rows(platform, model), 1)  # the metrics say so too
    client.leave()
    wait_for_busy(busy, 0)


def test_before_the_first_token(platform: Platform, model: str, busy: Callable[[], int]) -> None:
    client = Client(platform, model, LONG_PROMPT, max_tokens=BESIDE_IT)
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
        model=model, messages=[{"role": "user", "content": "Say hi."}], max_tokens=2, temperature=0
    )
    assert answer.choices[0].message.content


def test_cancelled_by_its_id(platform: Platform, model: str, busy: Callable[[], int], tokens: Tokens) -> None:
    client = Client(platform, model)
    tokens.wait()
    (request,) = [r for r in platform.get("/api/requests")["requests"] if r["model"] == model]
    platform.post(f"/api/requests/{request['id']}/cancel")
    wait_for_busy(busy, 0)
    tokens.check_counted()
    client.leave()


def test_a_response_in_the_background_that_is_cancelled(
    platform: Platform, model: str, busy: Callable[[], int], tokens: Tokens
) -> None:
    response = platform.client.responses.create(
        model=model, input="Count.", background=True, max_output_tokens=3500, extra_body={"ignore_eos": True}
    )
    tokens.wait()
    assert platform.client.responses.cancel(response.id).status == "cancelled"
    wait_for_busy(busy, 0)
    tokens.check_counted()
