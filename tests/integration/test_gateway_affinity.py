"""What the gateway tells the fleet of a request: how it begins, and when its answer does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.gateway_lab import (
    CHAT,
    CHUNKED_END,
    DONE,
    SSE_HEAD,
    Lab,
    answer_json,
    chat_body,
    chunked,
    delta,
    running_lab,
)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        lab.replica.script = answer_json({"ok": True})
        yield lab


async def post(lab: Lab, path: str, body: dict[str, Any]) -> None:
    assert (await lab.ask("POST", path, json.dumps({"model": CHAT} | body).encode())).status == 200


async def test_a_conversation_that_goes_on_has_the_hashes_that_it_had(lab: Lab) -> None:
    messages = [{"role": "user", "content": "hello"}]
    await post(lab, "/v1/chat/completions", {"messages": messages})
    messages += [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "what now?"}]
    await post(lab, "/v1/chat/completions", {"messages": messages})
    first, later = lab.fleet.prefixes
    assert first is not None and later is not None
    assert (len(first), len(later)) == (1, 3)
    assert later[:1] == first


async def test_a_completion_has_hashes_of_its_prompt(lab: Lab) -> None:
    await post(lab, "/v1/completions", {"prompt": "once " * 1000})
    (prefix,) = lab.fleet.prefixes
    assert prefix is not None and len(prefix) == 4


async def test_a_body_on_disk_is_not_read_for_its_hashes(lab: Lab) -> None:
    await post(lab, "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 2**21}]})
    assert lab.fleet.prefixes == [None]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_fleet_is_told_once_when_the_answer_begins(lab: Lab, stream: bool) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def script(seen: object, writer: asyncio.StreamWriter) -> None:
        await began.wait()
        writer.write(SSE_HEAD + chunked(delta("hi")))
        await go_on.wait()
        writer.write(chunked(DONE) + CHUNKED_END)

    if stream:
        lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=stream))
    if stream:
        await lab.replica.arrived.wait()
        assert lab.fleet.began == []
    began.set()
    await client.head()
    assert lab.fleet.began == [1]
    go_on.set()
    await lab.settled()
    assert lab.fleet.began == [1]
    client.hang_up()
