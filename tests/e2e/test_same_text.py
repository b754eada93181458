"""Same prompt, temperature 0: what Ekiben says is what the engine says by itself, token for token.

Of transformers, `tests/integration/test_transformers.py` shows it beside the library's own `generate`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests import tiny_gguf
from tests.bench.text.vllm_servers import NAME, server, wait_for_first_token
from tests.conformance import tap
from tests.conformance.engines import model_on, vllm_home
from tests.running import Platform
from tests.smollm2_folder import smollm2_folder

TOKENS: Final = 48
QUESTIONS: Final = (
    "Name three fruits.",
    "Write one sentence about the sea.",
    "What is the capital of France?",
)
BARE_LLAMA: Final = """
import json, sys, urllib.request
import xllamacpp
path, questions, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
parameters = xllamacpp.CommonParams()
parameters.model.path = path
parameters.n_parallel = 1
parameters.n_ctx = 2048
parameters.n_gpu_layers = 0
parameters.hostnames = ["127.0.0.1"]
parameters.port = 0
server = xllamacpp.Server(parameters)
told = []
for question in questions:
    body = {
        "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": tokens,
        "logprobs": True, "top_logprobs": 1,
    }
    request = urllib.request.Request(
        server.listening_address + "/v1/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    choice = json.load(urllib.request.urlopen(request))["choices"][0]
    told.append([item["token"] for item in choice["logprobs"]["content"]])
print("TOLD" + json.dumps(told))
"""


def alone(script: str, path: Path) -> list[Any]:
    """What the engine says in a process of its own, without Ekiben."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), json.dumps(QUESTIONS), str(TOKENS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: list[Any] = json.loads(done.stdout.partition("TOLD")[2])
    return told


def ask(platform: Platform, model: str, question: str, **more: Any) -> Any:
    return platform.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=TOKENS,
        **more,
    ).choices[0]


def test_llama_cpp(platform: Platform, weights: Callable[[str], Path]) -> None:
    model = model_on(platform, "llama_cpp")
    expected = alone(BARE_LLAMA, weights(model))
    for question, said in zip(QUESTIONS, expected, strict=True):
        tokens = said[:-1] if said[-1] == "" else said  # the end of the turn, which is no text
        choice = ask(platform, model, question, logprobs=True, top_logprobs=1)
        assert [item.token for item in choice.logprobs.content] == tokens
        assert "".join(tokens).startswith(choice.message.content)
        assert ask(platform, model, question).message.content == choice.message.content


@pytest.mark.vllm
def test_vllm(platform: Platform) -> None:
    model = model_on(platform, "vllm")
    for question, expected in zip(QUESTIONS, vllm_alone(), strict=True):
        choice = ask(platform, model, question, logprobs=True, top_logprobs=1)
        assert [item.token for item in choice.logprobs.content] == expected["tokens"]
        assert choice.message.content == expected["text"]
        assert ask(platform, model, question).message.content == expected["text"]


def vllm_alone() -> list[dict[str, Any]]:
    """What `vllm serve` says of the same folder."""
    told = []
    with server(vllm_home(), smollm2_folder(), stock=False) as (url, process):
        tap.leave_out(url)
        wait_for_first_token(url, process)
        for question in QUESTIONS:
            body = {
                **{"model": NAME, "messages": [{"role": "user", "content": question}], "temperature": 0},
                **{"max_tokens": TOKENS, "logprobs": True, "top_logprobs": 1},
            }
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=300) as response:
                choice = json.load(response)["choices"][0]
            tokens = [item["token"] for item in choice["logprobs"]["content"]]
            told.append({"tokens": tokens, "text": choice["message"]["content"]})
    return told


def test_a_gguf_file_judges_documents_for_clients(platform: Platform, tmp_path: Path) -> None:
    source = {"kind": "local", "path": str(tiny_gguf.embedding_model(tmp_path / "rank.gguf", pooling="rank"))}
    variant = {"format": "gguf", "engine": "llama_cpp", "source": source}
    spec = {"name": "judge", "family": "embedding", "abilities": ["rerank"], "variants": [variant]}
    assert platform.post("/api/models", {"spec": spec})["error"] is None
    asked = {"model": "judge", "query": "the cat", "documents": ["fish swim", "the cat sat", "a bird"]}
    by_path = [platform.post(path, {**asked, "top_n": 2}) for path in ("/v1/rerank", "/v2/rerank")]
    for answer in by_path:
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
        assert {result["index"] for result in answer["results"]} < {0, 1, 2}
    assert by_path[0]["results"][0]["index"] == by_path[1]["results"][0]["index"]
    alone = platform.post("/v1/rerank", asked | {"documents": [asked["documents"][2]]})["results"][0]
    everything = {r["index"]: r["relevance_score"] for r in platform.post("/v1/rerank", asked)["results"]}
    assert abs(alone["relevance_score"] - everything[2]) < 1e-4
