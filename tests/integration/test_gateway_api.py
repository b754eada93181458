"""`/api`, `/metrics` and the small routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ekiben.plugins.discovery import BrokenPlugin, Plugins, discover
from tests.integration.gateway_lab import CHAT, Client, Lab, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


def spec_of(lab: Lab) -> dict[str, Any]:
    """A spec that the plugins take, under another name."""
    spec = lab.fleet.catalog.spec(CHAT).model_dump(mode="json", exclude_none=True)
    return spec | {"name": "org/mine:q4", "aliases": []}


async def post(lab: Lab, path: str, value: object = None) -> Any:
    return await lab.ask("POST", path, json.dumps({} if value is None else value).encode())


async def test_models_are_listed_with_state_and_spec(lab: Lab) -> None:
    value = (await lab.ask("GET", "/api/models")).json()
    models = {model["name"]: model for model in value["models"]}
    assert models[CHAT]["state"] == "ready"
    assert models[CHAT]["origin"] == "builtin"
    assert models[CHAT]["abilities"] == ["chat", "complete"]
    assert models[CHAT]["spec"]["variants"][0]["engine"] == "llama_cpp"
    assert models[CHAT]["replicas"][0]["id"] == "r1"
    assert value["broken"] == []
    assert (await lab.ask("GET", f"/api/models/{CHAT}")).json() == models[CHAT]


async def test_a_model_is_added_shown_and_removed(lab: Lab) -> None:
    spec = spec_of(lab)
    added = await post(lab, "/api/models", {"spec": spec})
    assert added.status == 201
    assert (added.json()["name"], added.json()["origin"]) == ("org/mine:q4", "user")
    assert ("changed", "org/mine:q4") in lab.fleet.calls
    for path in ("/api/models/org%2Fmine%3Aq4", "/api/models/org/mine:q4", "/v1/models/org%2Fmine%3Aq4"):
        assert (await lab.ask("GET", path)).status == 200, path
    ids = [model["id"] for model in (await lab.ask("GET", "/v1/models")).json()["data"]]
    assert "org/mine:q4" in ids
    assert (await post(lab, "/api/models/org/mine:q4/load")).status == 200
    assert ("load", "org/mine:q4") in lab.fleet.calls
    conflict = await post(lab, "/api/models", {"spec": spec})
    assert (conflict.status, conflict.error()["code"]) == (409, "conflict")
    assert (await post(lab, "/api/models", {"spec": spec, "replace": True})).status == 201
    assert ("replaced", "org/mine:q4") in lab.fleet.calls
    removed = await lab.ask("DELETE", "/api/models/org%2Fmine%3Aq4")
    assert removed.json() == {"name": "org/mine:q4", "removed": True}
    assert (await lab.ask("GET", "/api/models/org%2Fmine%3Aq4")).status == 404


async def test_a_built_in_model_stays_and_is_not_stopped(lab: Lab) -> None:
    response = await lab.ask("DELETE", f"/api/models/{CHAT}")
    assert response.status == 409
    response.error()
    assert lab.fleet.calls == []


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ({}, 400, "send one of"),
        ({"yaml": 1}, 400, "send one of"),
        ({"yaml": "a: b", "path": "/x"}, 400, "send one of"),
        ({"path": "/x", "name": 1}, 400, "send one of"),
        ({"yaml": "name: [", "replace": 1}, 400, "replace"),
        ({"yaml": "name: [unclosed"}, 400, "request:1"),
        ({"yaml": "name: a\nfamily: llm\nabilities: [fly]\nvariants: []"}, 400, "request:3"),
        ({"spec": {"name": "a"}}, 400, "request:1"),
        ({"path": "/nowhere/model.gguf"}, 400, "/nowhere/model.gguf"),
        ([], 400, "object"),
    ],
)
async def test_what_cannot_be_added_is_said(lab: Lab, value: object, status: int, words: str) -> None:
    response = await post(lab, "/api/models", value)
    assert response.status == status
    assert words in response.error()["message"]


async def test_broken_weights_are_said(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF but not really")
    response = await post(lab, "/api/models", {"path": str(path)})
    assert response.status == 400
    assert response.error()["code"] == "configuration_error"


async def test_files_of_this_machine_are_not_added_from_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ekiben.gateway.http.exchange.Exchange.client_host", "10.1.2.3")
    spec = spec_of(lab)
    spec["variants"][0]["source"] = {"kind": "local", "path": "/etc/passwd"}
    for value in ({"path": "/etc/passwd"}, {"spec": spec}, {"yaml": json.dumps(spec)}):
        response = await post(lab, "/api/models", value)
        assert response.status == 403, response.body
        response.error()


@pytest.mark.parametrize("action", ["load", "pull", "stop"])
async def test_actions_reach_the_fleet(lab: Lab, action: str) -> None:
    response = await lab.ask("POST", f"/api/models/{CHAT}/{action}?wait_s=0")
    assert response.status == 200
    assert response.json()["name"] == CHAT
    assert lab.fleet.calls == [(action, CHAT)]


async def test_whether_a_model_fits_is_told(lab: Lab) -> None:
    told = (await lab.ask("GET", f"/api/models/{CHAT}/fit")).json()
    assert told == {
        "model": CHAT,
        "fits": "now",
        "device": "cpu",
        "need": {"cpu": 60},
        "free": {"cpu": 80},
        "budgets": {"cpu": 100},
        "would_go": [],
        "reason": None,
    }
    assert (await lab.ask("GET", "/api/models/nobody/fit")).status == 404


@pytest.mark.parametrize("query", ["wait_s=soon", "wait_s=-1", "wait_s=nan", "wait_s=1&wait_s=2"])
async def test_a_bad_query_is_400(lab: Lab, query: str) -> None:
    response = await lab.ask("POST", f"/api/models/{CHAT}/load?{query}")
    assert (response.status, response.error()["param"]) == (400, "wait_s")


async def test_the_log_is_shown_from_its_end(lab: Lab) -> None:
    assert (await lab.ask("GET", f"/api/models/{CHAT}/log")).body == b""
    lab.fleet.log_path(CHAT).write_bytes(b"".join(b"line %d \xff\n" % i for i in range(1000)))
    response = await lab.ask("GET", f"/api/models/{CHAT}/log?tail=2")
    assert response.body == b"line 998 \xff\nline 999 \xff\n"
    assert response.headers["content-type"].startswith("text/plain")
    assert (await lab.ask("GET", "/api/replicas/r1/log")).body.count(b"\n") == 200
    assert (await lab.ask("GET", f"/api/models/{CHAT}/log?tail=0")).body == b""


async def test_replicas_are_listed(lab: Lab) -> None:
    listed = (await lab.ask("GET", "/api/replicas")).json()
    (replica,) = listed["replicas"]
    assert (replica["id"], replica["model"], replica["state"]) == ("r1", CHAT, "ready")
    assert listed["memory"] == {
        "cpu": {"budget_bytes": 8_000_000_000, "held_bytes": 1_500_000_000},
        "cuda:0": {"budget_bytes": None, "held_bytes": 0},
    }
    assert listed["zygotes"] == [{"engine": "glove", "pid": 7, "warm": True, "memory_bytes": 1000}]


async def test_engines_are_listed_with_those_that_cannot_be_used() -> None:
    found = discover()
    plugins = Plugins(found.usable, (BrokenPlugin("bad", "ekiben-bad", "written for API 9"),))
    async with running_lab(plugins=plugins) as lab:
        value = (await lab.ask("GET", "/api/engines")).json()
        engines = {engine["id"]: engine for engine in value["engines"]}
        assert engines["llama_cpp"]["formats"] == ["gguf"]
        assert engines["llama_cpp"]["installed"] is not bool(engines["llama_cpp"]["missing"])
        assert "pypi" not in engines
        assert value["broken"] == [{"id": "bad", "distribution": "ekiben-bad", "reason": "written for API 9"}]


async def test_the_configuration_shows_origins_and_no_secret() -> None:
    async with running_lab(api_key="sk-canary") as lab:
        response = await lab.ask("GET", "/api/config", None, {"authorization": "Bearer sk-canary"})
        assert b"canary" not in response.body
        settings = {setting["name"]: setting for setting in response.json()["settings"]}
        assert (settings["api_key"]["value"], settings["api_key"]["origin"]) == ("********", "flag")
        assert (settings["keep_alive"]["value"], settings["keep_alive"]["origin"]) == ("auto", "default")


async def events_of(client: Client) -> AsyncIterator[tuple[str, str, Any]]:
    async for chunk in client.chunks():
        for block in chunk.decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            yield fields["event"], fields["id"], json.loads(fields["data"])


async def test_events_are_told_until_the_reader_leaves(lab: Lab) -> None:
    client = await lab.client()
    await client.send("GET", "/api/events")
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = events_of(client)
    assert (await anext(events))[:2] == ("snapshot", "0")
    lab.fleet.changes.put_nowait({"type": "model", "seq": 7, "model": {"name": CHAT, "state": "ready"}})
    kind, number, data = await anext(events)
    assert (kind, number, data["model"]["state"]) == ("model", "7", "ready")
    client.hang_up()
    await lab.settled()
    assert not [t for t in asyncio.all_tasks() if t.get_name() in ("next event", "events stop")]


async def test_events_end_when_the_platform_drains(lab: Lab) -> None:
    client = await lab.client()
    await client.send("GET", "/api/events")
    await client.head()
    chunks = client.chunks()
    await anext(chunks)
    lab.gateway.drain()
    assert [chunk async for chunk in chunks] == []
    client.hang_up()


async def test_metrics_are_prometheus_text_with_bounded_labels(lab: Lab) -> None:
    for number in range(50):
        await lab.chat(model=f"made-up-{number}")
        await lab.ask("GET", f"/made-up/{number}")
    assert (await lab.chat()).status == 200
    await lab.settled()
    response = await lab.ask("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {f.name: f for f in text_string_to_metric_families(response.body.decode())}
    counted = {
        (s.labels["route"], s.labels["model"], s.labels["status"]): s.value
        for s in families["ekiben_requests"].samples
        if s.name.endswith("_total")
    }
    assert counted[("/v1/chat/completions", CHAT, "200")] == 1
    assert counted[("/v1/chat/completions", "unknown", "404")] == 50
    assert counted[("unmatched", "unknown", "404")] == 50
    assert len(counted) == 3
    states = {s.labels["state"]: s.value for s in families["ekiben_models"].samples}
    assert states["ready"] == 1 and states["cold"] >= 1 and states["failed"] == 0
    assert families.keys() >= {
        "ekiben_request_duration_seconds",
        "ekiben_time_to_first_byte_seconds",
        "ekiben_wait_seconds",
        "ekiben_in_flight",
        "ekiben_build_info",
        "process_resident_memory_bytes",
    }


async def test_the_root_says_where_things_are(lab: Lab) -> None:
    value = (await lab.ask("GET", "/")).json()
    assert value["name"] == "ekiben"
    assert "POST /v1/chat/completions" in value["routes"]


async def test_a_server_may_start_and_stop_it_by_lifespan(lab: Lab) -> None:
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    running = asyncio.create_task(lab.gateway({"type": "lifespan"}, to_app.get, from_app.put))
    to_app.put_nowait({"type": "lifespan.startup"})
    assert await from_app.get() == {"type": "lifespan.startup.complete"}
    assert (await lab.ask("GET", "/readyz")).status == 200
    to_app.put_nowait({"type": "lifespan.shutdown"})
    assert await from_app.get() == {"type": "lifespan.shutdown.complete"}
    await running
    assert (await lab.ask("GET", "/readyz")).status == 503


async def test_a_websocket_is_refused(lab: Lab) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await lab.gateway({"type": "websocket", "path": "/v1/models"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_load_may_say_how_and_that_is_kept(lab: Lab) -> None:
    path, before = f"/api/models/{CHAT}", lab.fleet.catalog.get(CHAT)
    ordered = await post(lab, f"{path}/load?engine=llama_cpp&quantization=q4-1")
    assert ordered.status == 200
    assert lab.fleet.catalog.spec(CHAT).prefer.quantization == "q4-1"
    assert lab.fleet.calls[-3:] == [("replaced", CHAT), ("changed", CHAT), ("load", CHAT)]
    again = await post(lab, f"{path}/load?engine=llama_cpp")
    assert (again.status, lab.fleet.calls[-2:]) == (200, [("load", CHAT), ("load", CHAT)])
    refused = await post(lab, f"{path}/load?engine=no_such")
    assert (refused.status, refused.error()["code"]) == (400, "configuration_error")
    assert "'no_such' is that of no variant (there are: llama_cpp)" in refused.error()["message"]
    assert (await post(lab, f"{path}/load?engine=auto&quantization=auto")).status == 200
    assert lab.fleet.catalog.get(CHAT) == before
