"""`kill -9` in the middle of a batch: the next platform goes on, and every request is answered once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

from tests.integration.batch_lab import jsonl, lines

ITEMS = 30


@contextmanager
def platform(home: Path) -> Iterator[OpenAI]:
    """Killed at the end, whatever it does."""
    command = [sys.executable, "-m", "tests.integration.batch_platform", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
                yield client
        finally:
            process.kill()


def wait_for(client: OpenAI, batch_id: str, done: int) -> int:
    """Until so many requests are done; how many that are."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        assert batch.status in ("validating", "in_progress", "finalizing", "completed")
        if batch.request_counts is not None and batch.request_counts.completed >= done:
            return batch.request_counts.completed
        time.sleep(0.005)
    raise AssertionError("it stands still")


def test_each_request_is_answered_once_over_a_kill(ekiben_home: Path) -> None:
    with platform(ekiben_home) as client:
        file = client.files.create(file=("in.jsonl", jsonl(lines(ITEMS))), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"kept": "yes"},
        )
        told = wait_for(client, batch.id, 8)
    with platform(ekiben_home) as client:
        assert wait_for(client, batch.id, 0) >= told, "what was told to be done is done"
        wait_for(client, batch.id, ITEMS)
        while (batch := client.batches.retrieve(batch.id)).status != "completed":
            time.sleep(0.005)
        assert batch.output_file_id is not None
        assert batch.error_file_id is None
        output = client.files.content(batch.output_file_id).content.splitlines()
    answered = {each["custom_id"]: each["response"]["body"]["said"] for each in map(json.loads, output)}
    assert answered == {f"c{number}": f"hello {number}" for number in range(ITEMS)}
    assert len(output) == ITEMS
    assert batch.metadata == {"kept": "yes"}
