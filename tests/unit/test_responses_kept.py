"""What is kept of responses: rows, chains and their end; and how the end of an answer is caught."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import ReplicaDied
from ekiben.gateway.relay.prefixes import item_prefixes, response_prefixes
from ekiben.gateway.responses.archive import Archive
from ekiben.gateway.responses.items import kept_items
from ekiben.gateway.responses.recorder import Recorder
from ekiben.responses import event, item_id, new_response_id, response_of_item
from ekiben.store.database import Database
from ekiben.store.responses import ResponseStore, StoredResponse
from tests.conformance.shapes import problems_of
from tests.conformance.surface import Shape

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BLANK = {"id": "resp_1", "output": []}


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return NOW


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    database = Database.open(f"sqlite:///{tmp_path}/ekiben.db")
    yield ResponseStore(database)
    database.close()


def record(response_id: str, **fields: Any) -> StoredResponse:
    usual: dict[str, Any] = {
        "created_at": NOW,
        "status": "completed",
        "background": False,
        "previous_id": None,
        "input": "[]",
        "response": '{"output": []}',
    }
    return StoredResponse(id=response_id, **(usual | fields))


def test_rows_come_back_as_they_were(store: ResponseStore) -> None:
    first = record("a", input='["ü"]')
    store.put(first)
    assert store.get("a") == first
    store.put(record("a", status="failed"))
    assert store.get("a") == record("a", status="failed")
    assert store.get("b") is None
    assert (store.delete("a"), store.delete("a")) == (True, False)


def test_what_was_deleted_is_not_settled(store: ResponseStore) -> None:
    store.settle("a", status="completed", response="{}")
    assert store.get("a") is None


def test_a_chain_ends_where_somebody_is_missing(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        store.put(record(name, previous_id=previous))
    assert [entry.id for entry in store.chain("c")] == ["a", "b", "c"]
    store.delete("a")
    assert [entry.id for entry in store.chain("c")] == ["b", "c"]
    assert store.chain("a") == []


async def test_what_is_old_is_forgotten(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(record("old", created_at=NOW - timedelta(days=31)))
    store.put(record("new", created_at=NOW - timedelta(days=29)))
    loop, pruned, prune = asyncio.get_running_loop(), asyncio.Event(), store.prune

    def prune_and_tell(before: datetime) -> int:
        count = prune(before)
        loop.call_soon_threadsafe(pruned.set)
        return count

    monkeypatch.setattr(store, "prune", prune_and_tell)
    pruning = asyncio.create_task(Archive(store, Clock(), days=30).prune())
    async with asyncio.timeout(10):
        await pruned.wait()
    pruning.cancel()
    assert store.get("old") is None
    assert store.get("new") is not None


async def test_without_a_limit_nothing_is_forgotten(store: ResponseStore) -> None:
    store.put(record("old", created_at=NOW - timedelta(days=10_000)))
    await Archive(store, Clock(), days=0).prune()
    assert store.get("old") is not None


def test_ids_of_items_lead_back() -> None:
    response_id = new_response_id()
    assert response_of_item(item_id("msg", response_id, 3)) == response_id
    assert response_of_item("msg_1") is None


def test_kept_items_are_what_the_api_lists() -> None:
    items = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "2"},
        {"type": "reasoning", "summary": []},
    ]
    kept = kept_items(items, new_response_id())
    page = {"object": "list", "data": kept, "first_id": "a", "last_id": "b", "has_more": False}
    assert problems_of(page, Shape("openai.types.responses:ResponseItemList", "ResponseItemList")) == []
    assert len({item["id"] for item in kept}) == len(items)
    assert kept_items([*kept, 3, "x"], new_response_id()) == kept  # what has an id keeps it


class Kept:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def __call__(self, status: str, response: bytes) -> None:
        self.calls.append((status, json.loads(response)))


def recorder(kept: Kept | None = None) -> Recorder:
    return Recorder("resp_1", blank=lambda: BLANK, keep=kept)


LAST = event("response.completed", 2, {"response": {"id": "resp_1", "text": "\nevent: response.failed\n"}})
DELTA = event("response.output_text.delta", 1, {"delta": "event: response.completed\n"})


async def test_the_end_of_a_stream_is_held_back_until_it_is_kept() -> None:
    kept = Kept()
    heard = recorder(kept)
    assert heard.hear(DELTA) == DELTA
    assert heard.hear(DELTA + LAST) == DELTA
    assert kept.calls == []
    assert await heard.finish() == LAST
    assert kept.calls == [("completed", {"id": "resp_1", "text": "\nevent: response.failed\n"})]


async def test_an_end_that_comes_in_pieces_is_held_back_whole() -> None:
    """As large ones do: the first piece has many kilobytes, and so the head."""
    kept = Kept()
    heard = recorder(kept)
    passed = b"".join(heard.hear(piece) for piece in (DELTA, LAST[:100], LAST[100:120], LAST[120:]))
    assert passed == DELTA
    assert await heard.finish() == LAST
    assert kept.calls[0][0] == "completed"


async def test_a_stream_without_an_end_was_not_whole() -> None:
    heard = recorder(Kept())
    heard.hear(DELTA)
    with pytest.raises(ReplicaDied):
        await heard.finish()


def test_prefixes_grow_with_the_input() -> None:
    def body(*items: str, tools: Any = None) -> bytes:
        return json.dumps(
            {"input": [{"role": "user", "content": item} for item in items], "tools": tools}
        ).encode()

    one, two = response_prefixes(body("a")), response_prefixes(body("a", "b"))
    assert (len(one), two[:1]) == (1, one)
    assert response_prefixes(body("a", tools=[1])) != one
    assert len(response_prefixes(b'{"input": "text"}')) == 1
    assert response_prefixes(b'{"input": 5}') == response_prefixes(b"nonsense") == ()
    assert item_prefixes([b"a", b"b"], b"")[:1] == item_prefixes([b"a"], b"")
