"""What the official SDKs are made to do with the families besides text, over models of the catalog."""

from __future__ import annotations

from typing import Any, Final

from openai.types import Batch

from tests.conformance.scenarios import Outcome, Scenario

SENTENCE: Final = "Please stand behind the yellow line until the train has stopped."
FILE: Final = "$file"
"""`{"$file": path}` among the arguments is opened by the runner."""


def scenarios(*, recording: str, picture: str, requests: str, done: Batch) -> list[Scenario]:
    """`recording`: the sentence, spoken; `picture`: a PNG; `requests`: lines of a batch. Paths of files.

    `done`: a batch of those lines that is completed.
    """
    return [*_vectors(), *_audio(recording), *_pictures(picture), *_files(requests), *_batches(done)]


def _vectors() -> list[Scenario]:
    texts = ["a lunch box", "a railway station"]
    return [
        Scenario(
            "embeddings, in base64 by the SDK's own wish",
            "embeddings.create",
            [{"model": "all-minilm-l6-v2", "input": texts}],
            lambda out: [len(entry["embedding"]) for entry in out.whole["data"]] == [384, 384],
        ),
        Scenario(
            "too many dimensions are refused",
            "embeddings.create",
            [{"model": "all-minilm-l6-v2", "input": texts, "dimensions": 4096}],
            lambda out: _refused(out, "dimensions"),
        ),
    ]


def _audio(recording: str) -> list[Scenario]:
    heard = {"model": "whisper-base", "file": {FILE: recording}, "language": "en"}
    said = {"model": "piper-en-us-joe", "voice": "alloy", "input": "Hello."}
    return [
        Scenario(
            "speech",
            "audio.speech.create",
            [said | {"response_format": "wav"}],
            lambda out: out.whole["bytes"] > 10_000,
        ),
        Scenario(
            "speech too fast is refused",
            "audio.speech.create",
            [said | {"speed": 40}],
            lambda out: _refused(out, "speed"),
        ),
        Scenario(
            "transcription", "audio.transcriptions.create", [heard], lambda out: _said(out.whole["text"])
        ),
        Scenario(
            "transcription with the times of words",
            "audio.transcriptions.create",
            [heard | {"response_format": "verbose_json", "timestamp_granularities": ["word"]}],
            lambda out: out.whole["words"][0]["word"] == "Please" and _said(out.whole["text"]),
        ),
        Scenario(
            "transcription, streamed",
            "audio.transcriptions.create",
            [heard | {"stream": True}],
            lambda out: _deltas_add_up(out) and _said(_events(out)[-1]["text"]),
        ),
        Scenario("translation", "audio.translations.create", [_without(heard, "language")], _has_text),
    ]


def _pictures(picture: str) -> list[Scenario]:
    drawn = {"model": "digits-diffusion", "prompt": "a handwritten seven", "size": "32x32"}
    return [
        Scenario("a picture", "images.generate", [drawn | {"n": 2}], lambda out: len(out.whole["data"]) == 2),
        Scenario(
            "a picture, streamed with a preview",
            "images.generate",
            [drawn | {"stream": True, "partial_images": 1}],
            lambda out: (
                [event["type"].rpartition(".")[2] for event in _events(out)] == ["partial_image", "completed"]
            ),
        ),
        Scenario(
            "a picture, made over",
            "images.edit",
            [_without(drawn, "size") | {"image": {FILE: picture}}],
            lambda out: bool(out.whole["data"][0]["b64_json"]),
        ),
        Scenario(
            "a picture of no size is refused",
            "images.generate",
            [drawn | {"size": "0x0"}],
            lambda out: _refused(out, "size"),
        ),
    ]


def _files(requests: str) -> list[Scenario]:
    return [
        Scenario(
            "a file is kept",
            "files.create",
            [{"file": {FILE: requests}, "purpose": "batch"}],
            lambda out: out.whole["purpose"] == "batch" and out.whole["bytes"] > 0,
        ),
    ]


def _batches(done: Batch) -> list[Scenario]:
    asked = {"endpoint": "/v1/embeddings", "completion_window": "24h"}
    return [
        Scenario(
            "a batch",
            "batches.create",
            [asked | {"input_file_id": done.input_file_id}],
            lambda out: out.whole["status"] == "validating",
        ),
        Scenario(
            "what became of a batch",
            "batches.retrieve",
            [done.id],
            lambda out: (
                (out.whole["status"], out.whole["request_counts"]["completed"]) == ("completed", 1)
                and out.whole["usage"]["total_tokens"] > 0
            ),
        ),
        Scenario(
            "the file of its answers",
            "files.retrieve",
            [done.output_file_id],
            lambda out: out.whole["purpose"] == "batch_output",
        ),
        Scenario(
            "its answers", "files.content", [done.output_file_id], lambda out: out.whole["bytes"] > 1000
        ),
        Scenario(
            "a batch that is completed cannot be cancelled",
            "batches.cancel",
            [done.id],
            lambda out: out.error is not None and out.error["status"] == 400,
        ),
        Scenario(
            "a batch without its file is refused",
            "batches.create",
            [asked | {"input_file_id": "file-none"}],
            lambda out: out.error is not None and out.error["status"] in (400, 404),
        ),
    ]


def _said(text: str) -> bool:
    return text.strip() == SENTENCE


def _has_text(outcome: Outcome) -> bool:
    return bool(outcome.whole["text"].strip())


def _events(outcome: Outcome) -> list[Any]:
    assert outcome.events, "there was no stream"
    return outcome.events


def _deltas_add_up(outcome: Outcome) -> bool:
    *deltas, done = _events(outcome)
    return bool("".join(event["delta"] for event in deltas) == done["text"])


def _refused(outcome: Outcome, param: str) -> bool:
    error = outcome.error
    return error is not None and (error["status"], error["body"]["param"]) == (400, param)


def _without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}
