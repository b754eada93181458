"""Batches on a real platform: they yield to whoever waits, and outlive `kill -9`. Row D3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine, assert_fails
from tests.mayflies import Mayfly
from tests.running import Platform, wait_until

CHAT_PATH = "/v1/chat/completions"
PLACES = 3
"""Of the four that a replica is meant for, one is kept free."""


def begin(platform: Platform, requests: Iterable[tuple[str, str]], endpoint: Any = CHAT_PATH) -> Any:
    """A batch of texts for models."""
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": endpoint,
            "body": {"model": model, "messages": [{"role": "user", "content": text}]},
        }
        for number, (model, text) in enumerate(requests)
    ]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    file = platform.client.files.create(file=("in.jsonl", content), purpose="batch")
    return platform.client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


def ended(platform: Platform, batch_id: str) -> Any:
    def look() -> Any:
        batch = platform.client.batches.retrieve(batch_id)
        return batch if batch.status not in ("validating", "in_progress", "finalizing") else None

    return wait_until(look, "the batch to end")


def completed(platform: Platform, batch_id: str) -> int:
    counts = platform.client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def answers(platform: Platform, batch: Any) -> dict[str, str]:
    """By custom id; each must be there once."""
    lines = platform.client.files.content(batch.output_file_id).content.splitlines()
    told = [json.loads(line) for line in lines]
    found = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in told}
    assert len(found) == len(told)
    return found


def in_flight(fly: Mayfly, count: int) -> None:
    wait_until(lambda: fly.status["in_flight"] == count or None, f"{count} requests to run")


def test_whoever_waits_is_answered_while_a_batch_runs(hatch: Callable[..., Mayfly]) -> None:
    fly = hatch()
    batch = begin(fly.platform, [(fly.name, "!gate done")] * 12)
    in_flight(fly, PLACES)
    assert fly.ask("hello") == "hello"
    assert fly.status["in_flight"] == PLACES
    assert completed(fly.platform, batch.id) == 0
    fly.open_gate()
    batch = ended(fly.platform, batch.id)
    assert batch.status == "completed"
    assert answers(fly.platform, batch) == {f"c{number}": "done" for number in range(12)}


def test_cancelling_lets_the_engine_go(hatch: Callable[..., Mayfly]) -> None:
    fly = hatch()
    batch = begin(fly.platform, [(fly.name, "one")] * 2 + [(fly.name, "two !gate three")] * 5)
    wait_until(lambda: completed(fly.platform, batch.id) == 2 or None, "two answers")
    in_flight(fly, PLACES)
    assert fly.platform.client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    wait_until(lambda: len(fly.cancelled) == PLACES or None, "the engine to be let go")
    batch = wait_until(
        lambda: b if (b := fly.platform.client.batches.retrieve(batch.id)).status == "cancelled" else None,
        "the end",
    )
    assert answers(fly.platform, batch) == {"c0": "one", "c1": "one"}


@pytest.mark.slow
def test_a_killed_platform_s_batch_is_gone_on_with(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str], tmp_path: Path
) -> None:
    """What was under way is asked again, on the replica that outlived the platform."""
    platform = make_platform("--keep-alive", "never", env=with_mayflies).start()
    fly = Mayfly(platform, "fly", tmp_path)
    texts = [f"word{number}" if number < 10 else f"!gate word{number}" for number in range(30)]
    batch = begin(platform, [(fly.name, text) for text in texts])
    wait_until(lambda: completed(platform, batch.id) == 10 or None, "ten answers")
    in_flight(fly, PLACES)
    platform.kill()
    platform.start()
    in_flight(fly, PLACES)
    assert completed(platform, batch.id) == 10
    fly.open_gate()
    batch = ended(platform, batch.id)
    assert answers(platform, batch) == {f"c{number}": f"word{number}" for number in range(30)}
    assert len(fly.loads) == 1


def test_on_the_command_line(hatch: Callable[..., Mayfly]) -> None:
    fly = hatch()
    run = CommandLine(fly.platform.home)
    good = begin(fly.platform, [(fly.name, "one"), (fly.name, "two")])
    bad = begin(fly.platform, [(fly.name, "one"), ("nobody", "two")])
    assert ended(fly.platform, good.id).status == "completed"
    assert ended(fly.platform, bad.id).status == "failed"
    assert [batch["id"] for batch in run.json("batch", "ls")][:2] == [bad.id, good.id]
    assert "2 of 2" in run("batch", "ls").stdout
    shown = run("batch", "show", bad.id).stdout
    assert "line 2" in shown and "model_mismatch" in shown
    assert_fails(run("batch", "cancel", good.id), "is completed")
    assert_fails(run("batch", "show", "nobody"), "no batch 'nobody'")
