"""The conformance suite: what every plugin must do, run by its author over the real thing.

    from ekiben.contract import testing

    def test_plugin():
        testing.check_manifest(manifest)
        testing.check_import(manifest)

    async def test_engine(tmp_path):
        await testing.check_engine(MyEngine(), testing.load_request(spec, weights, scratch=tmp_path))

    def test_source(tmp_path):
        testing.check_source(MySource(), {"path": "…"}, folder=tmp_path)

    def test_policy():
        testing.check_policy(MyPolicy)

    def test_dialect():
        testing.check_dialect(MyDialect(), {"/its/path": {"model": "m", …}})

Each check raises `NotConforming` with the rule that is broken. The checks are made of small inputs and
take as long as the model needs for a few answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import wave
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement

from ekiben.contract.abilities import (
    Chat,
    Complete,
    Embed,
    EmbedRequest,
    OcrRequest,
    ReadText,
    Speak,
    SpeakRequest,
    TextRequest,
    Tokenizer,
    Transcribe,
    TranscribeRequest,
    has_ability,
)
from ekiben.contract.conforming import NotConforming, expect
from ekiben.contract.engine import Device, Engine, LoadedModel, LoadRequest, Sleeper
from ekiben.contract.manifest import API_VERSION, METHODS_OF_KIND, Manifest, Option
from ekiben.contract.model import Ability, ModelSpec
from ekiben.contract.policy import NOTABLE_GAP_S, Idle, Policy, Resident
from ekiben.contract.source import FetchProgress, FetchRequest, Source
from ekiben.contract.testing_batching import Alone, able
from ekiben.contract.testing_pictures import (
    blank_png,
    check_classify,
    check_detect,
    check_drawing,
    check_moderate,
)
from ekiben.contract.testing_text import check_dialect, check_rerank, check_tokenizer
from ekiben.errors import InvalidRequest

__all__ = [
    "Alone",
    "NotConforming",
    "able",
    "blank_png",
    "check_abilities",
    "check_classify",
    "check_detect",
    "check_dialect",
    "check_drawing",
    "check_engine",
    "check_import",
    "check_manifest",
    "check_moderate",
    "check_policy",
    "check_rerank",
    "check_source",
    "check_tokenizer",
    "expect",
    "load_request",
]

CANCEL_S: Final = 5.0
"""How long a closed iterator may take; the contract says a second, a busy test machine more."""

_IMPORT_SCRIPT: Final = """
import importlib, importlib.metadata, json, sys
module, attribute = sys.argv[1].split(":")
made = getattr(importlib.import_module(module), attribute)()
print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules}),
                  "methods": [name for name in dir(made) if not name.startswith("_")],
                  "provides": importlib.metadata.packages_distributions()}))
"""


# The plugin as such


def check_manifest(manifest: Manifest) -> None:
    """A manifest that says what it must, and nothing that contradicts itself."""
    expect(manifest.api == API_VERSION, f"api must be {API_VERSION}")
    expect(manifest.summary, "summary must say in a phrase what the plugin is for")
    expect(manifest.package == f"ekiben_{manifest.id}", f"the package must be ekiben_{manifest.id}")
    _check_requirements("requires", manifest.requires)
    for kind, table in manifest.environment.items():
        _check_requirements(f"[environment.{kind}] requires", table.requires)
        _check_requirements(f"[environment.{kind}] constraints", table.constraints)
        for name in table.without:
            expect(
                re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name),
                f"[environment.{kind}] without: {name!r} must be the name of a distribution",
            )
    section = manifest.engine.options if manifest.engine else {}
    section = section | (manifest.source.parameters if manifest.source else {})
    for name, option in section.items():
        _check_option(name, option)


def _check_requirements(where: str, texts: Iterable[str]) -> None:
    for text in texts:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            raise NotConforming(f"{where}: {error}") from None


def _check_option(name: str, option: Option) -> None:
    expect(option.help, f"option {name!r} needs a help text")
    if option.default is not None:
        problem = option.problem(option.default)
        expect(problem is None, f"the default of option {name!r} {problem}")


def check_import(manifest: Manifest) -> None:
    """Importing the plugin and making its object is quick, and needs none of its requirements.

    Runs in a fresh interpreter.
    """
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_SCRIPT, manifest.object],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
    expect(done.returncode == 0, f"{manifest.object} cannot be imported and made: {last_line}")
    seen: dict[str, Any] = json.loads(done.stdout)
    texts = {text for kind in (None, *manifest.environment) for text in manifest.requirements(kind)}
    required = {Requirement(text).name.lower().replace("_", "-") for text in texts}
    for module in seen["modules"]:
        owners = {name.lower().replace("_", "-") for name in seen["provides"].get(module, ())}
        expect(
            not owners & (required - _BASE_DISTRIBUTIONS),
            f"importing the plugin imports {module!r}: do that in load() or fetch()",
        )
    for method in METHODS_OF_KIND[manifest.kind]:
        expect(method in seen["methods"], f"{manifest.object} has no method {method!r}")


_BASE_DISTRIBUTIONS: Final = frozenset({"pip", "pydantic", "aiohttp", "msgspec", "pyyaml", "numpy"})
"""What the platform itself brings, so that importing it costs a plugin nothing."""


# Engines


def load_request(
    model: ModelSpec,
    weights: Path,
    *,
    scratch: Path,
    variant: int = 0,
    options: Mapping[str, Any] | None = None,
    threads: int = 2,
) -> LoadRequest:
    """A request as the runtime makes it. `options`: the manifest's defaults, if the engine has any."""
    chosen = model.variants[variant]
    return LoadRequest(
        model=model,
        variant=chosen,
        weights=weights,
        options=dict(options or {}) | chosen.options,
        device=Device(),
        threads=threads,
        scratch=scratch,
        report=lambda progress: None,
    )


async def check_engine(engine: Engine, request: LoadRequest) -> None:
    """Estimate, load, use every ability of the model, cancel, sleep and wake if it can, and unload."""
    estimate = engine.estimate_memory(request)
    expect(estimate.weights_bytes > 0, "estimate_memory must know the size of the weights")
    expect(estimate.working_bytes >= 0, "estimate_memory cannot be negative")
    model = await engine.load(request)
    try:
        for ability in sorted(request.model.abilities):
            expect(
                has_ability(model, ability),
                f"the spec says {ability.value!r}, which the loaded model has not",
            )
        await check_abilities(model, request.model, request.scratch)
        await _check_nap(model, request)
    finally:
        await model.unload()


async def _check_nap(model: LoadedModel, request: LoadRequest) -> None:
    """A model that can sleep can wake, and then does all that it did before."""
    sleeper: object = model
    has = [name for name in ("sleep", "wake") if hasattr(model, name)]
    expect(len(has) != 1, f"a model that can sleep has both sleep and wake, this one has only {has}")
    if isinstance(sleeper, Sleeper):
        await sleeper.sleep()
        await sleeper.wake()
        await check_abilities(model, request.model, request.scratch)


async def check_abilities(model: LoadedModel, spec: ModelSpec, scratch: Path) -> None:
    """Every ability that the spec names, with a small valid and an invalid input each."""
    for ability, check in _checks(spec, scratch).items():
        if ability in spec.abilities:
            await check(able(model, ability))
    shown: object = model
    if isinstance(shown, Tokenizer):
        await check_tokenizer(shown)


def _checks(spec: ModelSpec, scratch: Path) -> dict[Ability, Callable[[Any], Awaitable[None]]]:
    return {
        Ability.CHAT: lambda model: _check_chat(model, spec),
        Ability.COMPLETE: lambda model: _check_complete(model, spec),
        Ability.EMBED: _check_embed,
        Ability.RERANK: check_rerank,
        Ability.TRANSCRIBE: lambda model: _check_transcribe(model, scratch),
        Ability.SPEAK: _check_speak,
        Ability.READ_TEXT: _check_read_text,
        Ability.MODERATE: check_moderate,
        Ability.CLASSIFY: check_classify,
        Ability.DETECT: check_detect,
        Ability.GENERATE_IMAGE: lambda model: check_drawing(model.generate_image, edits=False),
        Ability.EDIT_IMAGE: lambda model: check_drawing(model.edit_image, edits=True),
    }


async def _check_chat(model: Chat, spec: ModelSpec) -> None:
    body = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8}
    await _check_text(model.chat, spec, body, "chat.completion", "chat.completion.chunk")


async def _check_complete(model: Complete, spec: ModelSpec) -> None:
    body = {"prompt": "One, two,", "max_tokens": 8}
    await _check_text(model.complete, spec, body, "text_completion", "text_completion")


async def _check_text(ask: Any, spec: ModelSpec, body: dict[str, Any], whole: str, part: str) -> None:
    answers = [json.loads(item) async for item in ask(_text_request(spec, body))]
    expect(len(answers) == 1, f"without stream there is one object, not {len(answers)}")
    expect(answers[0].get("object") == whole, f"its object is {whole!r}")
    expect(answers[0].get("model") == spec.name, "its model is the name asked for")
    expect(answers[0].get("usage", {}).get("total_tokens", 0) > 0, "it tells its usage")
    chunks = [json.loads(item) async for item in ask(_text_request(spec, body, stream=True))]
    expect(all(chunk.get("object") == part for chunk in chunks), f"chunks are {part!r} objects")
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk.get("choices", ())]
    expect(reasons and reasons[-1], "the last choice of a stream has a finish_reason")
    await _check_cancel(ask(_text_request(spec, body | {"max_tokens": 512}, stream=True)))


def _text_request(spec: ModelSpec, body: dict[str, Any], *, stream: bool = False) -> TextRequest:
    full = {"model": spec.name, **body} | ({"stream": True} if stream else {})
    return TextRequest(
        body=full, raw=json.dumps(full).encode(), stream=stream, model=spec.name, request_id="check"
    )


async def _check_cancel(answer: AsyncGenerator[Any, None]) -> None:
    async with asyncio.timeout(CANCEL_S):
        async with aclosing(answer):
            await anext(answer)


async def _check_embed(model: Embed) -> None:
    answer = await model.embed(EmbedRequest(inputs=["a lunch box", "a railway station"]))
    vectors = answer.vectors
    expect(vectors.format == "f" and vectors.ndim == 2, "vectors are a two-dimensional float32 buffer")
    expect(vectors.c_contiguous, "vectors are C-contiguous")
    shape = vectors.shape or (0, 0)
    expect(shape[0] == 2 and shape[1] > 0, "there is one vector for each input")
    expect(answer.prompt_tokens > 0, "the tokens are counted")


async def _check_transcribe(model: Transcribe, scratch: Path) -> None:
    silence = scratch / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 16000))
    answer = await model.transcribe(TranscribeRequest(audio=silence))
    expect(abs(answer.duration_s - 1.0) < 0.1, "the duration is that of the audio")
    async with aclosing(answer.segments) as segments:
        ends = [segment.end_s async for segment in segments]
    expect(ends == sorted(ends), "segments come in order of time")
    broken = scratch / "broken.wav"
    broken.write_bytes(b"this is not audio")
    await _expect_invalid(model.transcribe(TranscribeRequest(audio=broken)), "broken audio")


async def _check_speak(model: Speak) -> None:
    expect(model.voices, "there is at least one voice")
    request = SpeakRequest(text="Hello. This is a test.", voice=model.voices[0])
    chunks = [chunk async for chunk in model.speak(request)]
    expect(sum(len(chunk.samples) for chunk in chunks) > 0, "speech has samples")
    expect(all(len(chunk.samples) % 2 == 0 for chunk in chunks), "samples are whole 16-bit numbers")
    expect(len({chunk.sample_rate_hz for chunk in chunks}) == 1, "the sample rate never changes")
    await _check_cancel(model.speak(request))


async def _check_read_text(model: ReadText) -> None:
    page = await model.read_text(OcrRequest(image=blank_png(64, 48)))
    expect((page.width, page.height) == (64, 48), "the size is that of the picture")
    expect(all(len(line.box) == 4 for line in page.lines), "a box has four corners")
    await _expect_invalid(model.read_text(OcrRequest(image=b"not a picture")), "a broken picture")


async def _expect_invalid(answer: Any, what: str) -> None:
    try:
        await answer
    except InvalidRequest:
        return
    raise NotConforming(f"{what} must raise InvalidRequest")


# Sources


def check_source(
    source: Source,
    parameters: Mapping[str, Any],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Fetch, fetch again over what is there, and compare. Returns what engines would load."""
    reports: list[FetchProgress] = []
    request = FetchRequest(
        parameters=parameters,
        folder=folder,
        environment=dict(environment or {}),
        report=reports.append,
    )
    first = source.fetch(request)
    expect(first.exists(), "fetch returns a path that exists")
    done = [report.done_bytes for report in reports]
    expect(all(count >= 0 for count in done), "progress is never negative")
    second = source.fetch(request)
    expect(second == first, "fetching again gives the same result")
    return first


# Policies


def check_policy(make: Callable[[], Policy]) -> None:
    """Ask for all kinds of residents and idle models; twice from new, to see that it draws no lots."""
    answers = [[_ask(policy, turn) for turn in range(64)] for policy in (make(), make())]
    expect(answers[0] == answers[1], "the same questions in the same order have the same answers")


def _ask(policy: Policy, turn: int) -> tuple[float, float]:
    """Sizes, costs, rates and gaps over many orders of magnitude, zero among them."""
    name = f"model-{turn % 5}"
    size_bytes = (0, 1, 10**6, 10**9, 10**12)[turn % 5]
    cold_cost_s = (0.0, 1e-3, 1.0, 100.0, 1e4)[turn // 5 % 5]
    rate = (0.0, 1e-12, 1.0, 1e6)[turn % 4]
    gaps_s = tuple(NOTABLE_GAP_S + 37.0 * (turn * n % 101) ** 2 for n in range(turn))
    worth = policy.worth(Resident(name, size_bytes, cold_cost_s, rate, last_use_s=10.0 * turn))
    _expect_number("worth", worth)
    keep_alive_s = policy.keep_alive_s(Idle(name, size_bytes, cold_cost_s, gaps_s))
    _expect_number("keep_alive_s", keep_alive_s)
    expect(keep_alive_s >= 0, f"keep_alive_s gives no negative time: {keep_alive_s!r}")
    return worth, keep_alive_s


def _expect_number(method: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not math.isnan(value)
    expect(number, f"{method} gives a number, not {value!r}")
