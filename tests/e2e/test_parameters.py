"""Every published request parameter, on each engine: honoured, or refused by name; none is dropped.

What comes out is `platform/PARAMETERS.md`; with EKIBEN_TEST_WRITE=1 the tests write it.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import get_type_hints

from tests.conformance.engines import LESS_OFTEN, model_on
from tests.conformance.parameters_page import ParametersPage
from tests.conformance.probes import ENDPOINTS, Endpoint, Probe
from tests.conformance.shapes import published
from tests.conformance.streams import DONE, events_of
from tests.running import Platform

EMBEDDER = "all-minilm-l6-v2"
PAGE = Path(__file__).parents[2] / "platform" / "PARAMETERS.md"
WANTED = "[ab]{4}"
GRAMMARS: dict[str, Any] = {
    "grammar": "root ::= [ab] [ab] [ab] [ab]",
    "guided_choice": ["abab", "baba"],
    "guided_grammar": 'root ::= "abab"',
    "guided_regex": WANTED,
    "json_schema": {"type": "string", "pattern": WANTED},
    "regex": WANTED,
    "structured_outputs": {"regex": WANTED},
}
"""As vLLM, SGLang and llama.cpp's own server take them."""
TEXT = [endpoint for endpoint in ENDPOINTS if endpoint.path != "/v1/embeddings"]


@pytest.fixture(scope="module")
def page() -> Iterator[ParametersPage]:
    page = ParametersPage(PAGE)
    yield page
    if os.environ.get("EKIBEN_TEST_WRITE"):
        page.write()


def test_every_published_parameter_has_a_probe() -> None:
    for endpoint in ENDPOINTS:
        probed = {name for name in endpoint.probes if "." not in name} | endpoint.structure
        assert probed == _properties(endpoint), endpoint.path


@pytest.mark.parametrize("engine", LESS_OFTEN)
@pytest.mark.parametrize("endpoint", TEXT, ids=lambda endpoint: endpoint.path)
def test_parameters_of_text(
    platform: Platform, endpoint: Endpoint, engine: str, page: ParametersPage
) -> None:
    found = _outcomes(platform, endpoint, model_on(platform, engine))
    page.compare(endpoint.path, engine, found, writes=bool(os.environ.get("EKIBEN_TEST_WRITE")))


@pytest.mark.parametrize("engine", LESS_OFTEN)
def test_grammars_of_other_servers_are_kept_to_or_refused_by_name(platform: Platform, engine: str) -> None:
    (endpoint,) = (endpoint for endpoint in TEXT if endpoint.path == "/v1/chat/completions")
    asker = _Asker(platform, endpoint, model_on(platform, engine))
    for name, value in GRAMMARS.items():
        status, answer = asker.ask({**asker.base, "max_tokens": 16, name: value})
        if status == 400:
            assert answer["error"]["param"].partition(".")[0] == name, answer
        else:
            assert re.fullmatch(WANTED, answer["choices"][0]["message"]["content"]), (name, answer)


def test_parameters_of_embeddings(platform: Platform, page: ParametersPage) -> None:
    (endpoint,) = (endpoint for endpoint in ENDPOINTS if endpoint not in TEXT)
    found = _outcomes(platform, endpoint, EMBEDDER)
    page.compare(
        endpoint.path, "sentence_transformers", found, writes=bool(os.environ.get("EKIBEN_TEST_WRITE"))
    )


def _outcomes(platform: Platform, endpoint: Endpoint, model: str) -> dict[str, str]:
    asker = _Asker(platform, endpoint, model)
    found = {name: asker.outcome(name, probe) for name, probe in endpoint.probes.items()}
    dropped = {name: outcome for name, outcome in found.items() if outcome.startswith("!")}
    assert not dropped, dropped
    return found


class _Asker:
    """Requests to one model at one endpoint; those without the parameter are made once."""

    def __init__(self, platform: Platform, endpoint: Endpoint, model: str) -> None:
        self._url = platform.url + endpoint.path
        self.base = {"model": model, **endpoint.base}
        self._without: dict[str, tuple[int, Any]] = {}

    def outcome(self, name: str, probe: Probe) -> str:
        field = name.partition(".")[0]
        status, answer = self.ask({**self.base, **probe.given, field: probe.value})
        if status == 400:
            param = answer["error"]["param"] or ""
            named = param == name or param.startswith((f"{name}.", f"{field}."))
            return "refused" if named else f"! refused as {param!r}: {answer['error']['message']}"
        if status != 200:
            return f"! {status}: {answer}"
        if probe.hint:
            return "hint"
        if probe.effect is None:
            return "! accepted, and nothing is known that it could do"
        without = self._ask_once({**self.base, **probe.given})
        assert without[0] == 200, without
        return "honoured" if probe.effect(answer, without[1]) else "! dropped"

    def _ask_once(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        key = json.dumps(body)
        if key not in self._without:
            self._without[key] = self.ask(body)
        return self._without[key]

    def ask(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                raw = response.read()
                if response.headers.get_content_type() == "text/event-stream":
                    return 200, [json.loads(e.data) for e in events_of(raw) if e.data != DONE]
                return 200, self._with_whereabouts(json.loads(raw))
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def _with_whereabouts(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["object"] != "response":
            return answer
        try:
            with urllib.request.urlopen(f"{self._url}/{answer['id']}", timeout=120) as response:
                return answer | {"kept": response.status == 200}
        except urllib.error.HTTPError as error:
            error.close()
            return answer | {"kept": False}


def _properties(endpoint: Endpoint) -> set[str]:
    module, _, name = endpoint.types.partition(":")
    typed = get_type_hints(getattr(import_module(module), name))
    return set(typed) | _published_properties(published()[endpoint.component])


def _published_properties(schema: Mapping[str, Any]) -> set[str]:
    if "$ref" in schema:
        return _published_properties(published()[schema["$ref"].rpartition("/")[2]])
    branches = [*schema.get("allOf", ()), *schema.get("anyOf", ())]
    return set(schema.get("properties", ())).union(*map(_published_properties, branches))
