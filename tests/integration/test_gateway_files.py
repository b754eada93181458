"""Files of clients: kept whole or not at all, bounded, and told as OpenAI tells them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ekiben.store.database import Database, sqlite_url
from ekiben.store.files import FileStore, StoredFile
from tests.integration.batch_lab import BatchLab, batch_lab, check_surface, small_disk
from tests.integration.gateway_lab import Lab, Response, until

BOUNDARY = "b0undary"


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
async def files(ekiben_home: Path) -> AsyncIterator[BatchLab]:
    async with batch_lab(ekiben_home, max_file_bytes=3_000_000, max_files_bytes=5_000_000) as lab:
        yield lab


def form(
    content: bytes = b"{}",
    *,
    name: str = "a.jsonl",
    purpose: str = "user_data",
    more: dict[str, str] | None = None,
) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in {"purpose": purpose, **(more or {})}.items()
    ]
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return b"".join(parts) + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


async def post(lab: Lab, body: bytes) -> Response:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    return await lab.ask("POST", "/v1/files", body, headers)


def blobs(home: Path) -> set[str]:
    return {path.name for path in (home / "files").iterdir()}


async def test_a_file_is_kept_listed_read_and_deleted(files: BatchLab, ekiben_home: Path) -> None:
    content = os.urandom(2_500_000)
    made = await files.sdk.files.create(file=("über 1.bin", content), purpose="user_data")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(content),
        "über 1.bin",
        "user_data",
        "processed",
    )
    assert made.expires_at is None
    assert (await files.sdk.files.retrieve(made.id)) == made
    told = await files.sdk.files.content(made.id)
    assert told.content == content
    assert told.response.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BCber%201.bin"
    assert blobs(ekiben_home) == {made.id}
    assert (ekiben_home / "files" / made.id).read_bytes() == content
    deleted = await files.sdk.files.delete(made.id)
    assert deleted.deleted
    assert blobs(ekiben_home) == set()
    gone = await files.lab.ask("GET", f"/v1/files/{made.id}/content")
    assert gone.status == 404
    assert gone.error()["code"] == "not_found"


async def test_pages(files: BatchLab) -> None:
    made = [
        await files.sdk.files.create(file=(f"{n}", b"x"), purpose="vision" if n == 2 else "assistants")
        for n in range(5)
    ]
    ids = [file.id for file in made]
    assert [file.id async for file in files.sdk.files.list(limit=2)] == ids[::-1]
    assert [file.id async for file in files.sdk.files.list(limit=2, order="asc")] == ids
    assert [file.id async for file in files.sdk.files.list(purpose="vision")] == [ids[2]]
    page = check_surface("GET", "/v1/files", await files.lab.ask("GET", "/v1/files?limit=2&order=asc"))
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[1], True)
    for query, param in (("limit=0", "limit"), ("limit=10001", "limit"), ("order=up", "order")):
        refused = await files.lab.ask("GET", f"/v1/files?{query}")
        assert (refused.status, refused.error()["param"]) == (400, param)
    assert (await files.lab.ask("GET", "/v1/files?after=file-x")).status == 404


async def test_answers_keep_to_the_schema(files: BatchLab) -> None:
    made = check_surface("POST", "/v1/files", await post(files.lab, form()))
    path = f"/v1/files/{made['id']}"
    check_surface("GET", path, await files.lab.ask("GET", path))
    check_surface("GET", f"{path}/content", await files.lab.ask("GET", f"{path}/content"))
    check_surface("DELETE", path, await files.lab.ask("DELETE", path))
    check_surface("GET", path, await files.lab.ask("GET", path))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/../b", "C:\\\\x\\\\y", "a%2f..%2fb", "ekiben.db"]
)
async def test_names_never_become_paths(files: BatchLab, ekiben_home: Path, name: str) -> None:
    before = {path for path in ekiben_home.rglob("*") if path.parent.name != "files"}
    made = await post(files.lab, form(b"contents", name=name))
    assert made.status == 200, made.body
    assert blobs(ekiben_home) == {made.json()["id"]}
    assert {path for path in ekiben_home.rglob("*") if path.parent.name != "files"} == before | {
        ekiben_home / "files"
    }
    for asked in ("..%2f..%2fekiben.db", "..", "%2e%2e%2fekiben.db", "ekiben.db", "file-../x"):
        assert (await files.lab.ask("GET", f"/v1/files/{asked}/content")).status == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(purpose="batch_output"), "purpose"),
        (form(purpose="x"), "purpose"),
        (form(name=""), "file"),
        (form(name="a" * 256), "file"),
        (form(more={"model": "x"}), "model"),
        (form().replace(b'; filename="a.jsonl"', b""), "file"),
        (form(more={"expires_after[anchor]": "created_at"}), "expires_after.seconds"),
        (form(more={"expires_after[seconds]": "7200"}), "expires_after.anchor"),
        (
            form(more={"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}),
            "expires_after.seconds",
        ),
        (
            form(more={"expires_after[anchor]": "now", "expires_after[seconds]": "7200"}),
            "expires_after.anchor",
        ),
        (form()[:-60] + form(), None),
        (form()[:-4], None),
    ],
)
async def test_what_is_no_upload_leaves_nothing(
    files: BatchLab, ekiben_home: Path, body: bytes, param: str | None
) -> None:
    refused = await post(files.lab, body)
    assert refused.status == 400, refused.body
    assert param is None or refused.error()["param"] == param
    assert blobs(ekiben_home) == set()


async def test_too_large_is_told_before_it_is_sent(files: BatchLab, ekiben_home: Path) -> None:
    client = await files.lab.client()
    headers = {
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "content-length": "1000000000",
        "expect": "100-continue",
    }
    await client.send("POST", "/v1/files", b"", headers)
    response = await client.response()
    client.hang_up()
    assert (response.status, response.error()["code"]) == (413, "request_too_large")
    assert not (ekiben_home / "files").exists()


async def test_too_large_without_a_length_is_cut_off(files: BatchLab, ekiben_home: Path) -> None:
    client = await files.lab.client()
    headers = {
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "transfer-encoding": "chunked",
    }
    await client.send("POST", "/v1/files", None, headers)
    data = form(bytes(3_000_001))
    client.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
    response = await client.response()
    client.hang_up()
    assert response.status == 413
    await files.lab.settled()
    assert blobs(ekiben_home) == set()


async def test_all_files_together_have_a_bound(files: BatchLab) -> None:
    first = await files.upload(bytes(2_900_000), purpose="user_data")
    await files.upload(bytes(2_000_000), purpose="user_data")
    refused = await post(files.lab, form(bytes(500_000)))
    assert (refused.status, refused.error()["code"]) == (507, "storage_full")
    assert refused.headers["x-should-retry"] == "false"
    await files.sdk.files.delete(first.id)
    assert (await post(files.lab, form(bytes(500_000)))).status == 200


async def test_a_client_that_leaves_leaves_nothing(files: BatchLab, ekiben_home: Path) -> None:
    client = await files.lab.client()
    body = form(bytes(2_000_000))
    headers = {
        "content-type": f"multipart/form-data; boundary={BOUNDARY}",
        "content-length": str(len(body)),
    }
    await client.send("POST", "/v1/files", None, headers)
    client.writer.write(body[:1_500_000])
    await client.writer.drain()
    await until(lambda: (ekiben_home / "files").exists() and bool(blobs(ekiben_home)))
    client.hang_up()
    await files.lab.settled()
    assert blobs(ekiben_home) == set()


async def test_expired_files_are_gone(ekiben_home: Path) -> None:
    clock = Clock()
    async with batch_lab(ekiben_home, clock=clock) as files:
        short = await files.upload(b"x", expires_after={"anchor": "created_at", "seconds": 3600})
        usual = await files.upload(b"y")
        kept = await files.upload(b"z", purpose="user_data")
        assert (short.expires_at, usual.expires_at, kept.expires_at) == (
            short.created_at + 3600,
            usual.created_at + 30 * 24 * 3600,
            None,
        )
        clock.wall += timedelta(seconds=3600)
        assert {file.id async for file in files.sdk.files.list()} == {kept.id, usual.id}
        assert (await files.lab.ask("GET", f"/v1/files/{short.id}")).status == 404
    async with batch_lab(ekiben_home, clock=clock):
        await until(lambda: short.id not in blobs(ekiben_home))
    assert blobs(ekiben_home) == {usual.id, kept.id}


async def test_a_start_removes_what_was_never_finished(ekiben_home: Path) -> None:
    async with batch_lab(ekiben_home) as files:
        kept = await files.upload(b"x")
    orphan, draft = "file-" + 32 * "0", "file-" + 32 * "1" + ".part"
    for name in (orphan, draft):
        (ekiben_home / "files" / name).write_bytes(b"half")
    async with batch_lab(ekiben_home) as files:
        assert blobs(ekiben_home) == {kept.id}
        assert (await files.sdk.files.content(kept.id)).content == b"x"


async def test_bytes_that_are_gone_are_told(files: BatchLab, ekiben_home: Path) -> None:
    made = await files.upload(b"x")
    (ekiben_home / "files" / made.id).unlink()
    told = await files.lab.ask("GET", f"/v1/files/{made.id}/content")
    assert (told.status, told.error()["code"]) == (404, "not_found")


async def test_a_full_disk_is_told(ekiben_home: Path) -> None:
    with small_disk(ekiben_home):
        await see_a_full_disk(ekiben_home)


async def see_a_full_disk(small_disk: Path) -> None:
    async with batch_lab(small_disk) as files:
        refused = await post(files.lab, form(bytes(2_000_000)))
        assert (refused.status, refused.error()["code"]) == (507, "storage_full")
        assert "is full" in refused.error()["message"]
        assert blobs(small_disk) == set()
        assert (await post(files.lab, form(bytes(500_000)))).status == 200


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
async def test_purposes(files: BatchLab, purpose: str) -> None:
    made = await post(files.lab, form(purpose=purpose))
    assert (made.status, made.json()["purpose"]) == (200, purpose)


async def test_names_with_controls_are_refused(files: BatchLab) -> None:
    refused = await post(files.lab, form(name="a\x07b"))
    assert refused.status == 400


async def test_other_bodies_are_refused(files: BatchLab) -> None:
    refused = await files.lab.ask("POST", "/v1/files", json.dumps({"purpose": "batch"}).encode())
    assert refused.status == 415


def test_rows_come_in_order_of_their_time(tmp_path: Path) -> None:
    """Of the same moment, too."""
    database = Database.open(sqlite_url(tmp_path / "x.db"))
    store = FileStore(database)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        StoredFile(id=f"f{n}", created_at=now, expires_at=None, size_bytes=2, filename="f", purpose="batch")
        for n in (3, 1, 2)
    ]
    for row in rows:
        store.add(row)
    first = store.page(now=now, limit=2, after=None, descending=False, purpose=None)
    rest = store.page(now=now, limit=2, after=first[-1], descending=False, purpose=None)
    assert [row.id for row in (*first, *rest)] == ["f1", "f2", "f3"]
    assert store.held_bytes() == 6
    database.close()
