"""Several replicas of a real model: a conversation goes back to the one that has it in its KV cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.running import Platform, wait_until

MODEL = "smollm2-135m-instruct"
TWIN = "twin"


@pytest.fixture(scope="module")
def twins(platform: Platform, weights: Callable[[str], Path]) -> Platform:
    """A model with two ready replicas."""
    source = {"kind": "local", "path": str(weights(MODEL))}
    spec = {
        "name": TWIN,
        "family": "llm",
        "abilities": ["chat", "complete"],
        "replicas": {"min": 2, "max": 2},
        "variants": [{"format": "gguf", "engine": "llama_cpp", "source": source}],
    }
    assert platform.post("/api/models", {"spec": spec})["error"] is None
    platform.post(f"/api/models/{TWIN}/load")
    wait_until(lambda: ready(platform) == 2 or None, "two ready replicas")
    return platform


def ready(platform: Platform) -> int:
    return sum(replica["state"] == "ready" for replica in platform.model(TWIN)["replicas"])


def question(subject: str) -> list[dict[str, str]]:
    """The beginning of a conversation, of a few hundred tokens that no other has."""
    return [{"role": "user", "content": " ".join(f"{subject} number {n}," for n in range(60))}]


def ask(platform: Platform, messages: Any, **options: Any) -> Any:
    return platform.client.chat.completions.create(
        **({"model": TWIN, "messages": messages, "temperature": 0, "max_tokens": 4} | options)
    )


def go_on(platform: Platform, messages: list[dict[str, str]]) -> tuple[int, int]:
    """The next turn: how many tokens its prompt has, and how many of them were in the cache."""
    turn = [*messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}]
    usage = ask(platform, turn).usage
    return usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens


def test_two_conversations_go_back_to_the_replicas_that_have_them(twins: Platform) -> None:
    apples, pears = question("apple"), question("pear")
    busy = ask(twins, apples, stream=True, max_tokens=200)
    next(iter(busy))
    ask(twins, pears)  # to the other replica, since the first is busy
    busy.close()
    wait_until(lambda: twins.model(TWIN)["in_flight"] == 0 or None, "both to be idle")
    for messages in (pears, apples, pears, apples):
        tokens, cached = go_on(twins, messages)
        assert cached > tokens / 2, "it went to the replica that had to read all of it"
