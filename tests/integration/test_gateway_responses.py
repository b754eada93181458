"""What the gateway keeps of responses, and what it makes of it: over a replica that answers by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from ekiben.errors import DatabaseFailed, ModelNotReady
from ekiben.responses import ID_HEADER, blank_response, event
from ekiben.store.responses import ResponseStore, StoredResponse
from tests.integration.gateway_lab import (
    CHAT,
    CHUNKED_END,
    SSE_HEAD,
    WHISPER,
    Lab,
    Response,
    Script,
    Seen,
    answer_json,
    chunked,
    running_lab,
    shared_database,
    until,
)
from tests.unit.responses_in_hand import check_events, check_response, kinds

PATH = "/v1/responses"


class WatchedStore(ResponseStore):
    """Tells of what is written, and can fail."""

    def __init__(self) -> None:
        super().__init__(shared_database())
        self.put_count = 0
        self.broken = False

    def put(self, response: StoredResponse) -> None:
        if self.broken:
            raise DatabaseFailed("the disk is full")
        super().put(response)
        self.put_count += 1


@pytest.fixture
async def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
async def lab(store: WatchedStore) -> AsyncIterator[Lab]:
    async with running_lab(responses=store) as lab:
        lab.replica.script = answer("hello")
        yield lab


def answered(seen: Seen, text: str, status: str = "completed") -> dict[str, Any]:
    body = json.loads(seen.body)
    response = blank_response(
        body,
        response_id=seen.headers[ID_HEADER],
        model=CHAT,
        created_at=1,
        status=status,
    )
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": f"msg_{response['id'][5:]}0000", "type": "message", "status": "completed"}
    response["output"] = [message | {"role": "assistant", "content": [part]}]
    return response


def answer(text: str, *, wait: asyncio.Event | None = None, cut: bool = False) -> Script:
    """A replica's answer, streamed or not; in the middle of a stream it may wait, or break off."""

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        body = json.loads(seen.body)
        if not body.get("stream"):
            await answer_json(answered(seen, text))(seen, writer)
            return
        blank = answered(seen, text, "in_progress") | {"output": []}
        number = 2 if body.get("background") else 1
        begun = [event("response.in_progress", number, {"response": blank})]
        if number == 1:
            begun.insert(0, event("response.created", 0, {"response": blank}))
        writer.write(SSE_HEAD + chunked(b"".join(begun)))
        if wait is not None:
            await wait.wait()
        if cut:
            writer.close()
            return
        whole = event("response.completed", number + 1, {"response": answered(seen, text)})
        writer.write(chunked(whole) + CHUNKED_END)
        await writer.drain()

    return script


async def create(lab: Lab, given: Any = "hi", **more: Any) -> Response:
    return await lab.ask("POST", PATH, json.dumps({"model": CHAT, "input": given} | more).encode())


async def get(lab: Lab, path: str) -> Any:
    response = await lab.ask("GET", f"{PATH}/{path}")
    assert response.status == 200, response.body
    return response.json()


async def reached(lab: Lab, response_id: str, status: str) -> Any:
    """The response, as soon as it is in this state."""
    async with asyncio.timeout(10):
        while True:
            response = await get(lab, response_id)
            if response["status"] == status:
                return response
            await asyncio.sleep(0.005)


def sent(lab: Lab) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(lab.replica.seen[-1].body)
    return value


def texts(items: Sequence[dict[str, Any]]) -> list[str]:
    contents = [item["content"] for item in items]
    return [content if isinstance(content, str) else content[0]["text"] for content in contents]


async def test_what_is_not_to_be_kept_passes_as_it_came(lab: Lab, store: WatchedStore) -> None:
    raw = b'{ "model":"%b", "input" : "hi","store":false, "top_k":1e0}' % CHAT.encode()
    response = await lab.ask("POST", PATH, raw)
    assert response.status == 200
    assert lab.replica.seen[-1].body == raw
    assert store.put_count == 0
    missing = await lab.ask("GET", f"{PATH}/{response.json()['id']}")
    assert (missing.status, missing.error()["code"]) == (404, "not_found")


async def test_a_response_is_there_when_it_was_told_of(lab: Lab, store: WatchedStore) -> None:
    response = await create(lab)
    assert store.put_count == 1
    assert await get(lab, response.json()["id"]) == response.json()
    check_response(response.body)
    assert sent(lab) == {"model": CHAT, "input": "hi"}


async def test_a_stream_passes_and_its_end_waits_for_the_database(lab: Lab, store: WatchedStore) -> None:
    response = await create(lab, stream=True)
    events = check_events(response.body)
    assert kinds(events) == ["created", "in_progress", "completed"]
    assert await get(lab, events[-1]["response"]["id"]) == events[-1]["response"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_kept_is_not_told_of(lab: Lab, store: WatchedStore, stream: bool) -> None:
    store.broken = True
    response = await create(lab, stream=stream)
    if stream:
        events = check_events(response.body)
        assert kinds(events) == ["created", "in_progress", "error", "failed"]
        assert events[-2]["code"] == "database_failed"
    else:
        assert (response.status, response.error()["code"]) == (503, "database_failed")


async def test_a_response_goes_on_from_another_one(lab: Lab) -> None:
    first = (await create(lab, "one", instructions="be good")).json()["id"]
    second = (await create(lab, [{"role": "user", "content": "two"}], previous_response_id=first)).json()[
        "id"
    ]
    assert texts(sent(lab)["input"]) == ["one", "hello", "two"]
    assert "instructions" not in sent(lab)
    third = await create(lab, "three", previous_response_id=second, store=False)
    assert texts(sent(lab)["input"]) == ["one", "hello", "two", "hello", "three"]
    assert third.json()["previous_response_id"] == second
    listed = await get(lab, f"{second}/input_items?order=asc")
    assert texts(listed["data"]) == ["one", "hello", "two"]
    prefixes = [list(prefix or ()) for prefix in lab.fleet.prefixes[-3:]]
    assert prefixes[1][:1] != prefixes[0]  # instructions are not carried over, and come first
    assert prefixes[2][: len(prefixes[1])] == prefixes[1]


async def test_items_can_be_named(lab: Lab) -> None:
    first = (await create(lab, "one")).json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await create(lab, [reference, {"role": "user", "content": "two"}], store=False)
    assert texts(sent(lab)["input"]) == ["hello", "two"]
    for kind in ({}, {"type": "item_reference"}):
        missing = await create(lab, [kind | {"id": "msg_" + "0" * 36}])
        assert (missing.status, missing.error()["param"]) == (404, "input.0.id")


async def test_input_items_come_in_pages(lab: Lab) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    response_id = (await create(lab, items)).json()["id"]
    page = await get(lab, f"{response_id}/input_items?limit=2")
    assert (texts(page["data"]), page["has_more"]) == (["4", "3"], True)
    page = await get(lab, f"{response_id}/input_items?limit=3&after={page['last_id']}")
    assert (texts(page["data"]), page["has_more"]) == (["2", "1", "0"], False)
    for query in ("limit=0", "limit=x", "order=up"):
        wrong = await lab.ask("GET", f"{PATH}/{response_id}/input_items?{query}")
        assert (wrong.status, wrong.error()["param"]) == (400, query.partition("=")[0])


async def test_a_deleted_response_is_gone(lab: Lab) -> None:
    response_id = (await create(lab)).json()["id"]
    deleted = await lab.ask("DELETE", f"{PATH}/{response_id}")
    assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
    assert (await lab.ask("GET", f"{PATH}/{response_id}")).status == 404
    assert (await lab.ask("DELETE", f"{PATH}/{response_id}")).status == 404
    gone = await create(lab, previous_response_id=response_id)
    assert gone.status == 400
    assert gone.error()["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"store": 1}, "store"),
        ({"background": "yes"}, "background"),
        ({"previous_response_id": 3}, "previous_response_id"),
        ({"background": True, "store": False}, "background"),
        ({"background": True, "tools": "all"}, "tools"),
        ({"background": True, "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"background": True, "tools": [{"type": "function"}]}, "tools.0"),
        ({"background": True, "tool_choice": "any"}, "tool_choice"),
        ({"background": True, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"background": True, "text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"background": True, "metadata": {"a": 1}}, "metadata"),
        ({"background": True, "temperature": "hot"}, "temperature"),
        ({"model": WHISPER}, "model"),
    ],
)
async def test_what_is_wrong_is_said_at_the_door(lab: Lab, body: dict[str, Any], param: str) -> None:
    response = await create(lab, **body)
    assert (response.status, response.error()["param"]) == (400, param)
    assert not lab.replica.seen


async def test_a_replica_that_dies_in_the_middle_fails_the_response(lab: Lab) -> None:
    lab.replica.script = answer("x", cut=True)
    response = await create(lab, stream=True)
    events = check_events(response.body)
    assert kinds(events) == ["created", "in_progress", "error", "failed"]
    assert events[-1]["response"]["error"]["code"] == "server_error"


async def test_a_stream_that_fails_before_it_began_tells_of_itself_first(store: WatchedStore) -> None:
    async with running_lab(responses=store, heartbeat_s=0.01) as lab:
        lab.fleet.ready.clear()
        client = await lab.client()
        body = json.dumps({"model": CHAT, "input": "hi", "stream": True}).encode()
        await client.send("POST", PATH, body)
        await client.head()
        chunks = client.chunks()
        assert (await anext(chunks)).startswith(b": ")
        lab.fleet.error = ModelNotReady("it takes too long")
        lab.fleet.ready.set()
        told = b"".join([chunk async for chunk in chunks])
        events = b"".join(part + b"\n\n" for part in told.split(b"\n\n") if part and part[:1] != b":")
        assert kinds(check_events(events)) == ["created", "error", "failed"]
        client.hang_up()


async def test_a_client_that_leaves_ends_the_work(lab: Lab, store: WatchedStore) -> None:
    lab.replica.script = answer("x", wait=asyncio.Event())
    client = await lab.client()
    await client.send("POST", PATH, json.dumps({"model": CHAT, "input": "hi", "stream": True}).encode())
    await client.head()
    client.hang_up()
    async with asyncio.timeout(5):
        await lab.replica.seen[-1].closed.wait()
    assert store.put_count == 0


# In the background


async def test_a_response_in_the_background_goes_on_without_its_client(lab: Lab) -> None:
    go_on = asyncio.Event()
    lab.replica.script = answer("done", wait=go_on)
    response = await create(lab, background=True)
    queued = check_response(response.body)
    assert (queued["status"], queued["background"]) == ("queued", True)
    await until(lambda: bool(lab.replica.seen))
    await reached(lab, queued["id"], "in_progress")
    go_on.set()
    done = await reached(lab, queued["id"], "completed")
    assert texts(done["output"]) == ["done"]
    assert sent(lab)["stream"] is True


async def test_its_events_can_be_followed_from_anywhere(lab: Lab) -> None:
    response = await create(lab, background=True, stream=True)
    events = check_events(response.body)
    assert kinds(events) == ["created", "queued", "in_progress", "completed"]
    response_id = events[0]["response"]["id"]
    again = await lab.ask("GET", f"{PATH}/{response_id}?stream=true")
    assert again.body == response.body
    rest = await lab.ask("GET", f"{PATH}/{response_id}?stream=true&starting_after=2")
    assert [
        json.loads(line[6:])["sequence_number"] for line in rest.body.splitlines() if line[:5] == b"data:"
    ] == [3]


async def test_only_events_that_are_there_can_be_followed(lab: Lab) -> None:
    response_id = (await create(lab)).json()["id"]
    response = await lab.ask("GET", f"{PATH}/{response_id}?stream=true")
    assert (response.status, response.error()["param"]) == (400, "stream")


async def test_a_cancelled_response_lets_the_engine_go(lab: Lab) -> None:
    lab.replica.script = answer("x", wait=asyncio.Event())
    response_id = (await create(lab, background=True)).json()["id"]
    await until(lambda: bool(lab.replica.seen))
    cancelled = await lab.ask("POST", f"{PATH}/{response_id}/cancel", b"")
    assert check_response(cancelled.body)["status"] == "cancelled"
    async with asyncio.timeout(1):
        await lab.replica.seen[-1].closed.wait()
    assert (await get(lab, response_id))["status"] == "cancelled"
    again = await lab.ask("POST", f"{PATH}/{response_id}/cancel", b"")
    assert again.json()["status"] == "cancelled"


async def test_a_response_that_waits_for_its_model_can_be_cancelled(lab: Lab) -> None:
    lab.fleet.ready.clear()
    response_id = (await create(lab, background=True)).json()["id"]
    cancelled = await lab.ask("POST", f"{PATH}/{response_id}/cancel", b"")
    assert cancelled.json()["status"] == "cancelled"
    assert not lab.replica.seen


async def test_only_responses_in_the_background_can_be_cancelled(lab: Lab) -> None:
    response_id = (await create(lab)).json()["id"]
    assert (await lab.ask("POST", f"{PATH}/{response_id}/cancel", b"")).status == 400
    assert (await lab.ask("POST", f"{PATH}/resp_1/cancel", b"")).status == 404


async def test_nothing_goes_on_from_what_is_not_finished(lab: Lab) -> None:
    lab.replica.script = answer("x", wait=asyncio.Event())
    response_id = (await create(lab, background=True)).json()["id"]
    response = await create(lab, previous_response_id=response_id)
    assert (response.status, response.error()["param"]) == (400, "previous_response_id")
    assert (await lab.ask("DELETE", f"{PATH}/{response_id}")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_in_the_background_is_told_later(lab: Lab, stream: bool) -> None:
    error = {"message": "no", "type": "invalid_request_error", "param": "input", "code": None}
    lab.replica.script = answer_json({"error": error}, status=400)
    response = await create(lab, background=True, stream=stream)
    if stream:
        events = check_events(response.body)
        assert kinds(events) == ["created", "queued", "error", "failed"]
        response_id = events[0]["response"]["id"]
    else:
        response_id = response.json()["id"]
    failed = await reached(lab, response_id, "failed")
    assert failed["error"] == {"code": "invalid_prompt", "message": "no"}


async def test_what_a_platform_left_unfinished_has_failed(store: WatchedStore) -> None:
    async with running_lab(responses=store) as lab:
        lab.replica.script = answer("x", wait=asyncio.Event())
        stopped = (await create(lab, background=True)).json()["id"]
        row = store.get(stopped)
        assert row is not None
        await until(lambda: bool(lab.replica.seen))
        await lab.gateway.shutdown()
    killed = StoredResponse(
        id="resp_" + "1" * 32,
        created_at=row.created_at,
        status="queued",
        background=True,
        previous_id=None,
        input=row.input,
        response=row.response,
    )
    store.put(killed)
    async with running_lab(responses=store) as lab:
        for response_id in (stopped, killed.id):
            response = await get(lab, response_id)
            assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
