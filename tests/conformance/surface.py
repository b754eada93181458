"""The routes that clients of models use, and what their answers must be: a new route joins by a row.

A shape is a type of an official SDK (`package.module:Name`), a component of the published schema
(`tests/schemas/openai.json`), or a JSON schema written here for what OpenAI does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Framing(StrEnum):
    """How a stream tells of its end and its errors."""

    CHUNKS = "chunks"
    """Bare `data:` lines, the usage if asked for, `[DONE]`."""
    TYPED = "typed"
    """Each event says its `type`; the last one is one of `Row.last`."""
    NAMED = "named"
    """As TYPED, with an `event:` line of the same name, and numbered where OpenAI numbers them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that an object must satisfy."""

    sdk: str | None = None
    component: str | None = None
    schema: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Row:
    method: str
    path: str
    """`{}` stands for an id."""
    whole: Shape | None = None
    """Of a JSON answer; None when the route has none."""
    event: Shape | None = None
    framing: Framing = Framing.CHUNKS
    last: frozenset[str] = frozenset()
    plain: frozenset[str] = frozenset()
    """Other content types that it answers with."""
    dialect: str = "openai"
    """Whose error envelope."""

    def matches(self, method: str, path: str) -> bool:
        return method == self.method and re.fullmatch(self.path.replace("{}", "[^/].*"), path) is not None


def _objects(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": required | optional,
        "additionalProperties": False,
    }


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number"}


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_RANKED: Final = _objects({"index": _COUNT, "relevance_score": _NUMBER}, document=_objects({"text": _TEXT}))
_TOTAL: Final = _objects({"total_tokens": _COUNT}, prompt_tokens=_COUNT)
_RERANKED: Final = {
    "type": "object",
    "required": ["id", "results"],
    "properties": {"id": _TEXT, "results": _list_of(_RANKED), "model": _TEXT, "usage": _TOTAL},
}
_TOKENIZED: Final = _objects(
    {
        "tokens": _list_of(_COUNT),
        "count": _COUNT,
        "max_model_len": _COUNT,
        "token_strs": {"anyOf": [_list_of(_TEXT), {"type": "null"}]},
    }
)
_DETOKENIZED: Final = {"type": "object", "required": ["prompt"], "properties": {"prompt": _TEXT}}
_PAGE: Final = {
    "type": "object",
    "required": ["text", "width", "height", "lines"],
    "properties": {"text": _TEXT, "lines": {"type": "array"}},
}
_DOCUMENT: Final = {
    "required": ["pages"],
    "properties": {"pages": {"type": "array", "items": {"allOf": [_PAGE, {"required": ["page"]}]}}},
}
_READ: Final = {
    "type": "object",
    "required": ["id", "object", "created", "model", "text"],
    "properties": {"text": _TEXT},
    "oneOf": [_PAGE, _DOCUMENT],
}
_LABELLED: Final = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {"label": _TEXT, "score": {"type": "number", "minimum": 0, "maximum": 1}},
}
_CLASSIFIED: Final = {
    "type": "object",
    "required": ["id", "object", "created", "model", "labels"],
    "properties": {"object": {"const": "classification"}, "labels": {"type": "array", "items": _LABELLED}},
}
_BOXED: Final = {
    "required": ["box"],
    "properties": {"box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}},
}
_DETECTED: Final = {
    "type": "object",
    "required": ["id", "object", "created", "model", "width", "height", "objects"],
    "properties": {
        "object": {"const": "detection"},
        "objects": {"type": "array", "items": {"allOf": [_LABELLED, _BOXED]}},
    },
}
_DELETED: Final = {
    "type": "object",
    "required": ["id", "object", "deleted"],
    "properties": {"id": _TEXT, "object": _TEXT, "deleted": {"const": True}},
}

_BATCH: Final = Shape("openai.types:Batch", "Batch")
_FILE: Final = Shape("openai.types:FileObject", "OpenAIFile")
_RESPONSE: Final = Shape("openai.types.responses:Response", "Response")
_TRANSCRIPTS: Final = frozenset({"text/plain", "text/vtt", "application/x-subrip"})
_PROMPT_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})


def _pictures(path: str, event: str, last: str) -> Row:
    return Row(
        "POST",
        path,
        Shape("openai.types:ImagesResponse"),
        Shape(f"openai.types:{event}"),
        framing=Framing.NAMED,
        last=frozenset({last}),
    )


ROWS: Final = (
    Row(
        "POST",
        "/v1/chat/completions",
        Shape("openai.types.chat:ChatCompletion", "CreateChatCompletionResponse"),
        Shape("openai.types.chat:ChatCompletionChunk", "CreateChatCompletionStreamResponse"),
    ),
    Row(
        "POST",
        "/v1/completions",
        Shape("openai.types:Completion", "CreateCompletionResponse"),
        Shape("openai.types:Completion", "CreateCompletionResponse"),
    ),
    Row(
        "POST",
        "/v1/embeddings",
        Shape("openai.types:CreateEmbeddingResponse", "CreateEmbeddingResponse"),
    ),
    Row(
        "POST",
        "/v1/moderations",
        Shape("openai.types:ModerationCreateResponse", "CreateModerationResponse"),
    ),
    Row(
        "POST",
        "/v1/responses",
        _RESPONSE,
        Shape("openai.types.responses:ResponseStreamEvent", "ResponseStreamEvent"),
        framing=Framing.NAMED,
        last=_PROMPT_ENDS,
    ),
    Row(
        "POST",
        "/v1/responses/input_tokens",
        Shape("openai.types.responses:InputTokenCountResponse", "TokenCountsResource"),
    ),
    Row("POST", "/v1/responses/{}/cancel", _RESPONSE),
    Row("GET", "/v1/responses/{}/input_items", Shape(component="ResponseItemList")),
    Row(
        "GET",
        "/v1/responses/{}",
        _RESPONSE,
        Shape("openai.types.responses:ResponseStreamEvent", "ResponseStreamEvent"),
        framing=Framing.NAMED,
        last=_PROMPT_ENDS,
    ),
    Row("DELETE", "/v1/responses/{}", Shape(schema=_DELETED)),
    Row(
        "POST",
        "/v1/audio/transcriptions",
        Shape(
            "openai.types.audio:TranscriptionCreateResponse",
            "CreateTranscriptionResponseJson|CreateTranscriptionResponseVerboseJson"
            "|CreateTranscriptionResponseDiarizedJson",
        ),
        Shape(
            "openai.types.audio:TranscriptionStreamEvent",
            "CreateTranscriptionResponseStreamEvent",
        ),
        framing=Framing.TYPED,
        last=frozenset({"transcript.text.done"}),
        plain=_TRANSCRIPTS,
    ),
    Row(
        "POST",
        "/v1/audio/translations",
        Shape(
            "openai.types.audio.translation_create_response:TranslationCreateResponse",
            "CreateTranslationResponseJson|CreateTranslationResponseVerboseJson",
        ),
        plain=_TRANSCRIPTS,
    ),
    Row(
        "POST",
        "/v1/audio/speech",
        event=Shape(component="CreateSpeechResponseStreamEvent"),
        framing=Framing.TYPED,
        last=frozenset({"speech.audio.done"}),
        plain=frozenset(
            {"audio/mpeg", "audio/wav", "audio/flac", "audio/opus", "audio/aac", "audio/pcm", "audio/ogg"}
        ),
    ),
    Row("POST", "/v1/files", _FILE),
    Row("GET", "/v1/files", Shape(component="ListFilesResponse")),
    Row("GET", "/v1/files/{}/content", plain=frozenset({"application/octet-stream"})),
    Row("GET", "/v1/files/{}", _FILE),
    Row("DELETE", "/v1/files/{}", Shape("openai.types:FileDeleted", "DeleteFileResponse")),
    Row("POST", "/v1/batches", _BATCH),
    Row("GET", "/v1/batches", Shape(component="ListBatchesResponse")),
    Row("POST", "/v1/batches/{}/cancel", _BATCH),
    Row("GET", "/v1/batches/{}", _BATCH),
    Row("GET", "/v1/models", Shape("openai.pagination:SyncPage[Model]", "ListModelsResponse")),
    Row("GET", "/v1/models/{}", Shape("openai.types:Model", "Model")),
    _pictures("/v1/images/generations", "ImageGenStreamEvent", "image_generation.completed"),
    _pictures("/v1/images/edits", "ImageEditStreamEvent", "image_edit.completed"),
    Row("POST", "/v1/images/variations", Shape("openai.types:ImagesResponse")),
    Row("POST", "/v1/images/ocr", Shape(schema=_READ)),
    Row("POST", "/v1/images/classify", Shape(schema=_CLASSIFIED)),
    Row("POST", "/v1/images/detect", Shape(schema=_DETECTED)),
    *(Row("POST", f"{version}/rerank", Shape(schema=_RERANKED)) for version in ("", "/v1", "/v2")),
    *(Row("POST", f"{version}/tokenize", Shape(schema=_TOKENIZED)) for version in ("", "/v1")),
    *(Row("POST", f"{version}/detokenize", Shape(schema=_DETOKENIZED)) for version in ("", "/v1")),
    Row(
        "POST",
        "/v1/messages",
        Shape("anthropic.types:Message"),
        Shape("anthropic.types:RawMessageStreamEvent"),
        framing=Framing.NAMED,
        last=frozenset({"message_stop"}),
        dialect="anthropic",
    ),
    Row(
        "POST",
        "/v1/messages/count_tokens",
        Shape("anthropic.types:MessageTokensCount"),
        dialect="anthropic",
    ),
)

EXTRAS: Final[dict[str, frozenset[str]]] = {
    "TranscriptionVerbose": frozenset({"task"}),  # in the documents' examples
    "Image": frozenset({"seed"}),
    "ImageEditCompletedEvent": frozenset({"seed"}),
    "ImageGenCompletedEvent": frozenset({"seed"}),
    "Model": frozenset({"state", "family", "abilities", "parent", "alias_of"}),
    "ChatCompletionMessage": frozenset({"reasoning_content"}),
    "ChoiceDelta": frozenset({"reasoning_content"}),
    "Response": frozenset({"store"}),
    "ResponseCustomToolCallInputDeltaEvent": frozenset({"obfuscation"}),
    "ResponseFunctionCallArgumentsDeltaEvent": frozenset({"obfuscation"}),
    "ResponseFunctionCallArgumentsDoneEvent": frozenset({"name"}),
    "ResponseReasoningTextDeltaEvent": frozenset({"obfuscation"}),
    "ResponseRefusalDeltaEvent": frozenset({"obfuscation"}),
    "ResponseTextDeltaEvent": frozenset({"obfuscation"}),
}
"""Fields over those of the official types, by the type's name: all that there are. Of these, `store` and
`obfuscation` are OpenAI's own, which its package's types leave out."""


def row_of(method: str, path: str) -> Row | None:
    """The first that matches."""
    return next((row for row in ROWS if row.matches(method, path)), None)
