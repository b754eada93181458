"""What a replica answers on `/v1` besides its model's own answers: lists, refusals, accidents, counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anthropic.types import Message
from prometheus_client.parser import text_string_to_metric_families

from ekiben.runtime.protocol import Stage
from tests.bentos.processes import Replica

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def replica(start_replica: Callable[..., Replica]) -> Replica:
    started = start_replica()
    started.report_of(Stage.READY)
    return started


def _body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "polly", "messages": [{"role": "user", "content": text}], **fields}


def test_refusals_are_openai_errors(replica: Replica) -> None:
    cases: list[tuple[str, str, object, int, str | None, str]] = [
        ("GET", "/v1/models/other", None, 404, "model_not_found", "this is 'polly'"),
        ("DELETE", "/v1/models/polly", None, 405, "method_not_allowed", "takes GET, not DELETE"),
        ("POST", "/v1/models", None, 405, "method_not_allowed", "takes GET, not POST"),
        ("GET", CHAT, None, 405, "method_not_allowed", "takes POST, not GET"),
        ("POST", "/v1/nope", None, 404, "not_found", "'/v1/nope'"),
        ("GET", "/v1", None, 404, "not_found", "'/v1'"),
        ("POST", "/v1/embeddings", {}, 400, None, "cannot embed, which /v1/embeddings needs: it can chat"),
        ("POST", "/v1/completions", {}, 400, None, "cannot complete"),
        ("POST", "/v2/rerank", {}, 400, None, "cannot rerank, which /v2/rerank needs"),
        ("POST", "/tokenize", {"model": "polly"}, 400, None, "does not show its tokenizer"),
        ("GET", "/v1/detokenize", None, 405, "method_not_allowed", "takes POST, not GET"),
        ("POST", CHAT, {"messages": []}, 400, None, "you must provide a model parameter"),
        ("POST", CHAT, _body() | {"model": "other"}, 404, "model_not_found", "this is 'polly'"),
        ("POST", CHAT, [], 400, None, "must be a JSON object"),
    ]
    for method, path, body, status, code, reason in cases:
        response = replica.ask(path, body, method=method)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code), (method, path, error)
        assert set(error) == {"message", "type", "param", "code"}
        assert reason in error["message"]
        assert ("allow" in response.headers) is (status == 405)


def test_it_answers_to_its_alias_and_says_its_name(replica: Replica) -> None:
    response = replica.ask(CHAT, _body() | {"model": "pretty-polly"})
    assert response.json()["choices"][0]["message"]["content"] == "hello"
    assert replica.ask("/v1/models/pretty-polly", method="GET").json()["id"] == "polly"


def test_dialects_are_spoken_too_and_so_are_their_errors(replica: Replica) -> None:
    body = _body("one two", max_tokens=9)
    message = Message.model_validate_json(replica.ask("/v1/messages", body).content, strict=True)
    assert (message.model, message.role) == ("polly", "assistant")
    assert message.content[0].to_dict() == {"type": "text", "text": "one two"}
    streamed = replica.ask("/v1/messages", body | {"stream": True}).text
    assert streamed.startswith("event: message_start\n")
    assert streamed.endswith('event: message_stop\ndata: {"type": "message_stop"}\n\n')
    broken = replica.ask("/v1/messages", _body("one choke", max_tokens=9, stream=True)).text
    assert broken.rpartition("event: ")[2].startswith('error\ndata: {"type": "error"')
    for method, path, status, kind in (
        ("POST", "/v1/messages", 400, "invalid_request_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", 400, "invalid_request_error"),
    ):
        answer = replica.ask(path, {"model": "polly"} if method == "POST" else None, method=method)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert answer.json()["type"] == "error"


def test_an_accident_is_told_without_its_insides(replica: Replica) -> None:
    response = replica.ask(CHAT, _body("break"))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "cage" not in response.text
    assert "RuntimeError: a secret of the cage" in replica.log
    assert replica.ask(CHAT, _body()).status_code == 200


def test_an_accident_in_a_stream_ends_it_with_an_error_and_no_done(replica: Replica) -> None:
    with replica.chat("one choke") as events:
        first, last = events
    assert "one" in first
    assert '"error"' in last and "cage" not in last


def test_whatever_clients_ask_for_the_counts_stay_few(replica: Replica) -> None:
    before = _counts(replica)
    for number in range(20):
        replica.ask(f"/v1/nope{number}", method="GET")
        replica.ask(f"/v1/models/nope{number}", method="GET")
    replica.ask(CHAT, _body())
    after = _counts(replica)
    assert {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key)} == {
        ("other", "404"): 20,
        ("/v1/models", "404"): 20,
        (CHAT, "200"): 1,
    }


def test_the_rest_is_bentomls(replica: Replica) -> None:
    for path in ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/metrics"):
        assert replica.ask(path, method="GET").status_code == 200, path
    answer = replica.ask("/generate", {"prompt": "hello parrot"})
    assert answer.text == "hello parrot "


def test_what_it_writes_is_in_its_folder(replica: Replica) -> None:
    folder = replica.order.folder
    assert {path.name for path in folder.iterdir()} >= {"bentoml", "metrics", "tmp", "replica.sock"}
    assert list((folder / "metrics").iterdir())


def _counts(replica: Replica) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(replica.ask("/metrics", method="GET").text)
    return {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "ekiben_replica_requests_total"
    }
