"""What replicas count appears in the platform's `/metrics`, and no replica can spoil or delay them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ekiben.gateway.api import engine_metrics
from tests.integration.gateway_lab import CHAT, Lab, answer_bytes, answer_then_hang, running_lab

TEXT = b'# HELP vllm:n Requests\n# TYPE vllm:n gauge\nvllm:n{model_name="m"} 3.0\n'


def answer(text: bytes, *, status: int = 200, length: int | None = None) -> bytes:
    size = len(text) if length is None else length
    return b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % (status, size) + text


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


async def families(lab: Lab) -> dict[str, list[tuple[dict[str, str], float]]]:
    response = await lab.ask("GET", "/metrics")
    assert response.status == 200
    found = text_string_to_metric_families(response.body.decode())
    return {family.name: [(s.labels, s.value) for s in family.samples] for family in found}


async def test_they_have_their_own_names_and_say_whose_they_are(lab: Lab) -> None:
    lab.replica.script = answer_bytes(answer(TEXT))
    found = await families(lab)
    assert found["vllm:n"] == [({"model": CHAT, "replica": "r1", "model_name": "m"}, 3.0)]
    assert "ekiben_requests" in found
    (seen,) = lab.replica.seen  # only one model of the lab is ready
    assert seen.head.startswith(b"GET /metrics ")


async def test_reading_asks_the_fleet_for_nothing(lab: Lab) -> None:
    lab.replica.script = answer_bytes(answer(TEXT))
    await families(lab)
    assert lab.fleet.calls == [] and not lab.fleet.leases
    await lab.replica.stop()
    assert "vllm:n" not in await families(lab)


@pytest.mark.parametrize(
    "text",
    [
        answer(TEXT, status=500),
        answer(b"\xff\xfe"),
        answer(b"<html>"),
        answer(TEXT + b"#" * engine_metrics.MAX_BYTES),
        b"nonsense\r\n\r\n",
    ],
    ids=["error", "not text", "not metrics", "too long", "not http"],
)
async def test_what_is_no_answer_is_left_out(lab: Lab, text: bytes) -> None:
    lab.replica.script = answer_bytes(text)
    found = await families(lab)
    assert "vllm:n" not in found and "ekiben_requests" in found


@pytest.mark.parametrize("begun", [b"", answer(TEXT, length=1000)], ids=["silent", "half"])
async def test_a_replica_that_hangs_is_not_waited_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(engine_metrics, "PATIENCE_S", 0.05)
    lab.replica.script = answer_then_hang(begun)
    found = await families(lab)
    assert "vllm:n" not in found and "ekiben_requests" in found
    async with asyncio.timeout(5):
        await lab.replica.seen[0].closed.wait()
