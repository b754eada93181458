"""Batches: every request answered once, whatever happens; and nobody who waits is kept waiting by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from ekiben.errors import DatabaseFailed
from ekiben.store.batches import BatchStore
from tests.integration.batch_lab import (
    CHAT_PATH,
    BatchLab,
    batch_lab,
    check_surface,
    echo,
    jsonl,
    line,
    lines,
    small_disk,
)
from tests.integration.gateway_lab import CHAT, Lab, Script, Seen, answer_json, until


class Clock:
    """Wall time in the hand."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return self.wall


@pytest.fixture
async def batches(ekiben_home: Path) -> AsyncIterator[BatchLab]:
    async with batch_lab(ekiben_home) as lab:
        yield lab


def gated(gate: asyncio.Event, *, open_to: int = 0) -> Script:
    """Echoes, but from the n-th request on only once the gate is open."""
    count = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        if count > open_to:
            await gate.wait()
        await echo(seen, writer)

    return script


def said(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {each["custom_id"]: each["response"]["body"]["said"] for each in lines}


async def test_a_batch_from_file_to_file(batches: BatchLab) -> None:
    requests = lines(7)
    requests[4]["body"]["messages"][0]["content"] = "fail"
    batch = await batches.begin(requests, metadata={"a": "b"})
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", CHAT_PATH, {"a": "b"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    batch = await batches.reached(batch.id, "completed")
    assert batch.model == CHAT
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (7, 6, 1)
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (18, 12, 30)
    assert batch.usage.input_tokens_details.cached_tokens == 6
    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert times == sorted(times)
    assert batch.errors is None
    output = await batches.lines_of(batch.output_file_id)
    assert said(output) == {f"c{n}": f"hello {n}" for n in range(7) if n != 4}
    assert all(each["response"]["status_code"] == 200 and each["error"] is None for each in output)
    assert len({each["id"] for each in output} | {each["response"]["request_id"] for each in output}) == 12
    (failed,) = await batches.lines_of(batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("c4", 400, None)
    assert failed["response"]["body"]["error"]["message"] == "no"
    file = await batches.sdk.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename, file.expires_at) == (
        "batch_output",
        f"{batch.id}_output.jsonl",
        None,
    )
    assert all(batches.lab.fleet.idle)


async def test_no_empty_files_are_left(batches: BatchLab, ekiben_home: Path) -> None:
    batch = await batches.reached((await batches.begin(lines(1))).id, "completed")
    assert batch.error_file_id is None
    await until(lambda: len(list((ekiben_home / "files").iterdir())) == 2)  # the input and the output


async def test_answers_keep_to_the_schema(batches: BatchLab) -> None:
    file = await batches.upload(jsonl(lines(1)))
    fields = {"input_file_id": file.id, "endpoint": CHAT_PATH, "completion_window": "24h"}
    asked = json.dumps(fields).encode()
    path = "/v1/batches"
    ids = [check_surface("POST", path, await batches.lab.ask("POST", path, asked))["id"] for _ in range(3)]
    for batch_id in ids:
        await batches.reached(batch_id, "completed")
    first = check_surface("GET", path, await batches.lab.ask("GET", f"{path}?limit=2"))
    assert [batch["id"] for batch in first["data"]] == ids[:0:-1]
    assert first["has_more"]
    one = f"{path}/{ids[0]}"
    check_surface("GET", one, await batches.lab.ask("GET", one))
    assert [batch.id async for batch in batches.sdk.batches.list(limit=1)] == ids[::-1]
    for refused in (f"{path}/batch_x", f"{path}?after=batch_x"):
        assert (await batches.lab.ask("GET", refused)).status == 404


async def test_what_cannot_be_a_batch(batches: BatchLab) -> None:
    file = await batches.upload(b"{}\n")
    other = await batches.upload(b"{}\n", purpose="user_data")
    good = {"input_file_id": file.id, "endpoint": CHAT_PATH, "completion_window": "24h"}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"input_file_id": "file-x"}, 404, "input_file_id"),
        ({"input_file_id": other.id}, 400, "input_file_id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"endpoint": "/v1/audio/speech"}, 400, "endpoint"),
        ({"endpoint": "/api/models"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {"a": 1}}, 400, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at"}}, 400, "output_expires_after"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            400,
            "output_expires_after.seconds",
        ),
        ({"window": 1}, 400, "window"),
    ]
    for change, status, param in cases:
        told = await batches.lab.ask("POST", "/v1/batches", json.dumps(good | change).encode())
        assert (told.status, told.error()["param"]) == (status, param), told.body
    assert [batch async for batch in batches.sdk.batches.list()] == []


async def test_bad_lines_are_told_by_number_and_nothing_is_run(batches: BatchLab) -> None:
    good = line(1)
    wrong: list[tuple[bytes, str, str | None]] = [
        (jsonl([good]), "duplicate_custom_id", "custom_id"),
        (b"{nonsense\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b"[" * 5000 + b"\n", "invalid_json_line", None),
        (
            jsonl([{k: v for k, v in line(2).items() if k != "custom_id"}]),
            "missing_required_parameter",
            "custom_id",
        ),
        (jsonl([line(3, method="GET")]), "invalid_method", "method"),
        (jsonl([line(4, url="/v1/embeddings")]), "url_mismatch", "url"),
        (jsonl([line(5, body=[])]), "invalid_value", "body"),
        (jsonl([line(6, body={"messages": []})]), "missing_required_parameter", "body.model"),
        (jsonl([line(7, body={"model": "other"})]), "model_mismatch", "body.model"),
        (jsonl([line(8, body={"model": CHAT, "stream": True})]), "invalid_value", "body.stream"),
        (
            jsonl([line(11, body={"model": CHAT, "response_format": "url"})]),
            "invalid_value",
            "body.response_format",
        ),
        (jsonl([line(9, custom_id="")]), "invalid_value", "custom_id"),
        (jsonl([line(10, more=1)]), "unknown_parameter", "more"),
    ]
    content = jsonl([good]) + b"\n" + b"".join(raw for raw, _, _ in wrong)
    batch = await batches.reached((await batches.begin(content)).id, "failed")
    assert batch.failed_at is not None
    assert batch.output_file_id is None
    told = [(error.line, error.code, error.param) for error in batch.errors.data]
    assert told == [(number, code, param) for number, (_, code, param) in enumerate(wrong, start=3)]
    assert batches.lab.replica.seen == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (jsonl([line(0, body={"model": "nobody"})]), "model_not_found"),
        (jsonl([line(0, body={"model": "whisper-base"})]), "invalid_value"),
        (b'{"custom_id": "' + bytes(9 * 2**20).replace(b"\0", b"x") + b'"}\n', "invalid_json_line"),
    ],
)
async def test_files_that_are_no_batch(batches: BatchLab, content: bytes, code: str) -> None:
    batch = await batches.reached((await batches.begin(content)).id, "failed")
    assert [error.code for error in batch.errors.data] == [code]


async def test_too_many_lines(batches: BatchLab) -> None:
    content = b"".join(b'{"custom_id":"%d"}\n' % n for n in range(50))
    batch = await batches.reached((await batches.begin(content * 3)).id, "failed")
    assert len(batch.errors.data) == 100


async def test_cancelling_keeps_what_is_done(batches: BatchLab) -> None:
    gate = asyncio.Event()
    batches.lab.replica.script = gated(gate, open_to=5)
    batch = await batches.begin(lines(20))
    await until(lambda: len(batches.lab.replica.seen) == 9)
    told = await batches.lab.ask("POST", f"/v1/batches/{batch.id}/cancel")
    check_surface("POST", f"/v1/batches/{batch.id}/cancel", told)
    assert told.json()["status"] in ("cancelling", "cancelled")
    batch = await batches.reached(batch.id, "cancelled")
    assert batch.cancelling_at is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 0)
    done = said(await batches.lines_of(batch.output_file_id))
    left = {each["custom_id"]: each["error"]["code"] for each in await batches.lines_of(batch.error_file_id)}
    assert done.keys() | left.keys() == {f"c{n}" for n in range(20)}
    assert len(done) + len(left) == 20
    assert set(left.values()) == {"batch_cancelled"}
    assert (await batches.sdk.batches.cancel(batch.id)).status == "cancelled"


async def test_what_has_ended_cannot_be_cancelled(batches: BatchLab) -> None:
    batch = await batches.reached((await batches.begin(lines(1))).id, "completed")
    with pytest.raises(openai.BadRequestError, match="is completed"):
        await batches.sdk.batches.cancel(batch.id)


async def test_a_batch_that_takes_too_long_expires(ekiben_home: Path) -> None:
    clock, gate = Clock(), asyncio.Event()
    async with batch_lab(ekiben_home, clock=clock) as batches:
        batches.lab.replica.script = gated(gate, open_to=2)
        batch = await batches.begin(lines(6))
        await until(lambda: len(batches.lab.replica.seen) == 6)
        clock.wall += timedelta(hours=24)
        batch = await batches.reached(batch.id, "expired")
        assert batch.expired_at == batch.expires_at
        assert batch.request_counts.completed == 2
        assert len(await batches.lines_of(batch.output_file_id)) == 2
        left = await batches.lines_of(batch.error_file_id)
        assert {each["error"]["code"] for each in left} == {"batch_expired"}
        assert len(left) == 4


async def test_a_request_that_meets_a_passing_failure_is_made_again(batches: BatchLab) -> None:
    count = 0

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        if count == 1:
            writer.close()  # as one whose process has died
        else:
            await echo(seen, writer)

    batches.lab.replica.script = script
    batch = await batches.reached((await batches.begin(lines(1))).id, "completed")
    assert batch.request_counts.completed == 1
    assert batches.lab.fleet.died == [1]


async def test_the_next_platform_goes_on(ekiben_home: Path) -> None:
    """An orderly end: what was under way is made again, and nothing is told to have failed."""
    gate = asyncio.Event()
    async with batch_lab(ekiben_home) as first:
        first.lab.replica.script = gated(gate, open_to=6)
        batch = await first.begin(lines(12))
        await until(lambda: len(first.lab.replica.seen) == 10)
        first.lab.gateway.drain()
        await first.lab.settled()
    async with batch_lab(ekiben_home) as second:
        batch = await second.reached(batch.id, "completed")
        assert batch.request_counts.completed == 12
        assert batch.usage.total_tokens == 12 * 5, "what the first platform had answered counts"
        output = await second.lines_of(batch.output_file_id)
        assert sorted(each["custom_id"] for each in output) == sorted(f"c{n}" for n in range(12))
        assert len(second.lab.replica.seen) == 6


async def test_a_line_that_was_not_finished_is_cut_off(ekiben_home: Path) -> None:
    gate = asyncio.Event()
    async with batch_lab(ekiben_home) as first:
        first.lab.replica.script = gated(gate, open_to=3)
        batch = await first.begin(lines(8))
        await until(lambda: len(first.lab.replica.seen) == 7)
        first.lab.gateway.drain()
        await first.lab.settled()
    (output,) = [p for p in (ekiben_home / "files").iterdir() if b'"said"' in p.read_bytes()]
    with output.open("ab") as file:
        file.write(b'{"custom_id": "c7", "resp')
    async with batch_lab(ekiben_home) as second:
        batch = await second.reached(batch.id, "completed")
        assert said(await second.lines_of(batch.output_file_id)) == {f"c{n}": f"hello {n}" for n in range(8)}


async def test_the_input_stays_as_long_as_it_is_read(batches: BatchLab) -> None:
    gate = asyncio.Event()
    batches.lab.replica.script = gated(gate)
    batch = await batches.begin(lines(2))
    await until(lambda: len(batches.lab.replica.seen) == 2)
    refused = await batches.lab.ask("DELETE", f"/v1/files/{batch.input_file_id}")
    assert refused.status == 400
    gate.set()
    await batches.reached(batch.id, "completed")
    assert (await batches.sdk.files.delete(batch.input_file_id)).deleted


async def test_a_database_that_fails_for_a_while(batches: BatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = BatchStore.settle
    failures: list[Any] = []

    def sometimes(self: BatchStore, *args: Any, **more: Any) -> None:
        if len(failures) < 3:
            failures.append(args)
            raise DatabaseFailed("the disk is full")
        settle(self, *args, **more)

    monkeypatch.setattr(BatchStore, "settle", sometimes)
    batch = await batches.reached((await batches.begin(lines(3))).id, "completed")
    assert batch.request_counts.completed == 3
    assert len(failures) == 3


async def test_a_disk_that_is_full_for_a_while(ekiben_home: Path) -> None:
    """It waits, and of a line that did not fit nothing stays."""
    with small_disk(ekiben_home) as disk:
        await see_it_wait(ekiben_home, disk)


async def see_it_wait(home: Path, disk: Path) -> None:
    async with batch_lab(home) as batches:
        file = await batches.upload(jsonl(lines(10)))
        (disk / "something else").write_bytes(bytes(1_000_000))

        async def much(seen: Seen, writer: asyncio.StreamWriter) -> None:
            await answer_json({"said": "x" * 20_000})(seen, writer)

        batches.lab.replica.script = much
        batch = await batches.sdk.batches.create(
            input_file_id=file.id, endpoint=CHAT_PATH, completion_window="24h"
        )
        await until(lambda: len(batches.lab.replica.seen) > 4)
        await batches.lab.settled()
        waiting = await batches.sdk.batches.retrieve(batch.id)
        assert waiting.status == "in_progress"
        (disk / "something else").unlink()
        batch = await batches.reached(batch.id, "completed")
        assert (batch.request_counts.completed, batch.request_counts.failed) == (10, 0)
        assert len(await batches.lines_of(batch.output_file_id)) == 10


async def test_other_endpoints_with_their_own_errors(batches: BatchLab) -> None:
    embed = {"model": "all-minilm-l6-v2", "input": "x"}
    batches.lab.replica.script = answer_json({"object": "list", "data": []})
    request = line(0, url="/v1/embeddings", body=embed)
    batch = await batches.begin([request], endpoint="/v1/embeddings")
    batch = await batches.reached(batch.id, "completed", "failed")
    assert batch.errors is None, batch.errors
    assert batches.lab.replica.seen[-1].head.startswith(b"POST /v1/embeddings ")
    assert json.loads(batches.lab.replica.seen[-1].body) == embed


async def test_no_more_than_so_many_at_a_time(ekiben_home: Path) -> None:
    gate = asyncio.Event()
    async with batch_lab(ekiben_home) as batches:
        batches.lab.replica.script = gated(gate)
        batch = await batches.begin(lines(30))
        await until(lambda: len(batches.lab.replica.seen) == 4)
        assert (await _in_flight(batches.lab)) == 4
        gate.set()
        assert (await batches.reached(batch.id, "completed")).request_counts.completed == 30


async def _in_flight(lab: Lab) -> int:
    return len((await lab.ask("GET", "/api/requests")).json()["requests"])
