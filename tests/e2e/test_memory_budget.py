"""Models share a memory that is too small for all of them, on real processes."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.running import Platform

LLM = "smollm2-135m-instruct"
VOICE = "piper-en-us-joe"
BUDGET = 800_000_000


@pytest.fixture(scope="module")
def narrow(make_platform: Callable[..., Platform], weights: Callable[[str], Any]) -> Platform:
    for name in (LLM, VOICE):
        weights(name)
    return make_platform("--keep-alive", "never", env={"EKIBEN_MEMORY": str(BUDGET)}).start()


def fit(platform: Platform, model: str) -> dict[str, Any]:
    told: dict[str, Any] = platform.get(f"/api/models/{model}/fit")
    return told


def test_the_verdict_before_the_first_start(narrow: Platform) -> None:
    told = fit(narrow, LLM)
    assert (told["fits"], told["device"], told["budgets"]) == ("now", "cpu", {"cpu": BUDGET})
    assert 98_000_000 < told["need"]["cpu"] < BUDGET
    assert narrow.model(LLM)["state"] == "cold"


def test_one_model_makes_room_for_the_other_and_needs_are_remembered(narrow: Platform) -> None:
    narrow.post(f"/api/models/{LLM}/load")
    assert fit(narrow, LLM)["fits"] == "loaded"
    listed = subprocess.run(narrow.command("ps"), capture_output=True, text=True, check=True).stdout
    assert listed.splitlines()[-1].endswith("of 800.0 MB")
    told = fit(narrow, VOICE)
    assert (told["fits"], told["would_go"][-1]) == ("after evictions", LLM)
    shown = subprocess.run(
        narrow.command("model", "show", VOICE), capture_output=True, text=True, check=True
    ).stdout
    assert f"{LLM}: needs" in shown.partition("after unloading ")[2]
    narrow.post(f"/api/models/{VOICE}/load")
    assert narrow.model(VOICE)["state"] == "ready"
    assert narrow.model(LLM)["state"] == "cold"
    assert narrow.stop() == 0
    narrow.start()
    known = fit(narrow, LLM)
    assert known["fits"] == "now"
    assert known["need"]["cpu"] < told["budgets"]["cpu"]


def test_what_can_never_fit_is_refused_with_the_arithmetic_and_harms_nobody(narrow: Platform) -> None:
    narrow.post(f"/api/models/{VOICE}/load")
    spec = narrow.model(LLM)["spec"]
    variant = spec["variants"][0] | {"options": {"context": 8192, "parallel": 8}}
    narrow.post("/api/models", {"spec": spec | {"name": "large", "variants": [variant]}})
    told = fit(narrow, "large")
    assert told["fits"] == "never"
    with pytest.raises(openai.APIStatusError) as caught:
        narrow.client.completions.create(model="large", prompt="a", max_tokens=1)
    assert told["reason"] in caught.value.message
    assert "800 MB" in caught.value.message
    assert narrow.model(VOICE)["state"] == "ready"
    narrow.wait_for("large", "failed")


def test_busy_model_lets_another_one_in_and_comes_back(
    narrow: Platform, make_platform: Callable[..., Platform]
) -> None:
    """Nobody waits for ever because somebody else is busy, and nobody's requests fail for it."""
    assert narrow.stop() == 0
    narrow.start()
    needs = [fit(narrow, name)["need"]["cpu"] for name in (LLM, VOICE)]
    assert narrow.stop() == 0
    budget = max(needs) + min(needs) // 2  # for one of them
    platform = make_platform("--keep-alive", "never", home=narrow.home, env={"EKIBEN_MEMORY": str(budget)})
    platform.start()
    platform.post(f"/api/models/{LLM}/load")
    spoken, failed = threading.Event(), []

    def chat() -> int:
        answers = 0
        while not spoken.is_set():
            try:
                platform.client.completions.create(model=LLM, prompt="Once", max_tokens=8)
                answers += 1
            except openai.APIError as error:
                failed.append(error)
        return answers

    with ThreadPoolExecutor(4) as pool:
        chats = [pool.submit(chat) for _ in range(4)]
        try:
            speech = platform.client.audio.speech.create(
                model=VOICE, voice="default", input="My turn.", response_format="wav"
            )
        finally:
            spoken.set()
    assert len(speech.content) > 10_000
    assert failed == []
    assert all(done.result() for done in chats)
    with urllib.request.urlopen(platform.url + "/metrics") as response:
        metrics = response.read().decode()
    assert f'ekiben_evictions_total{{model="{LLM}",reason="request"}}' in metrics
    assert platform.client.completions.create(model=LLM, prompt="Once", max_tokens=1).choices
