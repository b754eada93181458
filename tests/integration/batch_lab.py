"""Batches over a gateway and a scripted replica: their files, and a home that outlives a lab."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from openai import AsyncOpenAI

from ekiben.store.database import Database, sqlite_url
from tests.conformance.answers import Exchange, problems_of_answer
from tests.integration.gateway_lab import CHAT, Lab, Response, Seen, answer_json, running_lab

CHAT_PATH: Final = "/v1/chat/completions"


@dataclass
class BatchLab:
    """A lab with the official client."""

    lab: Lab
    sdk: AsyncOpenAI

    async def upload(self, content: bytes, **more: Any) -> Any:
        return await self.sdk.files.create(file=("in.jsonl", content), **({"purpose": "batch"} | more))

    async def begin(self, lines: Iterable[dict[str, Any]] | bytes, **more: Any) -> Any:
        """A batch over these lines."""
        content = lines if isinstance(lines, bytes) else jsonl(lines)
        file = await self.upload(content)
        asked = {"endpoint": CHAT_PATH, "completion_window": "24h"} | more
        return await self.sdk.batches.create(input_file_id=file.id, **asked)

    async def reached(self, batch_id: str, *statuses: str) -> Any:
        """The batch, as soon as it is in one of these states."""
        async with asyncio.timeout(20):
            while True:
                batch = await self.sdk.batches.retrieve(batch_id)
                if batch.status in statuses:
                    return batch
                await asyncio.sleep(0.005)

    async def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        content = await self.sdk.files.content(file_id)
        return [json.loads(line) for line in content.content.splitlines()]


@asynccontextmanager
async def batch_lab(home: Path, **more: Any) -> AsyncIterator[BatchLab]:
    """The database is in the home too."""
    database = Database.open(sqlite_url(home / "ekiben.db"))
    try:
        async with running_lab(folder=home, database=database, **more) as lab:
            lab.replica.script = echo
            base_url = f"http://127.0.0.1:{lab.port}/v1"
            async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as sdk:
                yield BatchLab(lab, sdk)
    finally:
        database.close()


@contextmanager
def small_disk(home: Path) -> Iterator[Path]:
    """A real one for the files of a home, with room for 1 MB; the test is skipped where there can be none."""
    folder = home / "files"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def line(number: int, **more: Any) -> dict[str, Any]:
    """One request of a batch."""
    body = {"model": CHAT, "messages": [{"role": "user", "content": f"hello {number}"}]}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT_PATH, "body": body} | more


def lines(count: int) -> list[dict[str, Any]]:
    return [line(number) for number in range(count)]


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """What was said is said back; `fail` gets an error."""
    said = json.loads(seen.body)["messages"][0]["content"]
    if said == "fail":
        error = {"message": "no", "type": "invalid_request_error", "param": None, "code": None}
        await answer_json({"error": error}, status=400)(seen, writer)
    else:
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
        await answer_json({"object": "chat.completion", "said": said, "usage": usage})(seen, writer)


def check_surface(method: str, path: str, response: Response) -> Any:
    """The body of an answer that keeps to the published schema."""
    exchange = Exchange(
        method=method,
        path=path.partition("?")[0],
        asked=b"",
        status=response.status,
        headers=response.headers,
        body=response.body,
    )
    problems = problems_of_answer(exchange)
    assert not problems, problems
    return response.json()
