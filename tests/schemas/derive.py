"""Derives `openai.json` from OpenAI's published API description: types, names and bounds, no prose.

    python -m tests.schemas.derive path/to/openapi.json

The description is the `openapi.json` of the public repository openai/openai-openapi. What is kept are
the components that the routes here take and give, and what those refer to. `oneOf` becomes `anyOf`, since
the branches of the published unions overlap.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

DERIVED: Final = Path(__file__).with_name("openai.json")

ROOTS: Final = (
    "Batch",
    "CreateChatCompletionRequest",
    "CreateChatCompletionResponse",
    "CreateChatCompletionStreamResponse",
    "CreateCompletionRequest",
    "CreateCompletionResponse",
    "CreateEmbeddingRequest",
    "CreateEmbeddingResponse",
    "CreateModerationRequest",
    "CreateModerationResponse",
    "CreateResponse",
    "CreateSpeechRequest",
    "CreateSpeechResponseStreamEvent",
    "CreateTranscriptionRequest",
    "CreateTranscriptionResponseDiarizedJson",
    "CreateTranscriptionResponseJson",
    "CreateTranscriptionResponseStreamEvent",
    "CreateTranscriptionResponseVerboseJson",
    "CreateTranslationRequest",
    "CreateTranslationResponseJson",
    "CreateTranslationResponseVerboseJson",
    "DeleteFileResponse",
    "ErrorResponse",
    "ListBatchesResponse",
    "ListFilesResponse",
    "ListModelsResponse",
    "Model",
    "OpenAIFile",
    "Response",
    "ResponseItemList",
    "ResponseStreamEvent",
    "TokenCountsBody",
    "TokenCountsResource",
)

_KEPT: Final = frozenset(
    {
        "const",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "required",
        "type",
    }
)
_NULL_IN_EXAMPLES: Final = (("ModelResponseProperties", "user"), ("Response", "usage"))
"""Properties that the description's own examples show as null, against their types."""
_PREFIX: Final = "#/components/schemas/"


def derive(published: dict[str, Any]) -> dict[str, Any]:
    """The components that the roots need, as one JSON schema's definitions."""
    components = published["components"]["schemas"]
    derived: dict[str, Any] = {}
    wanted = list(ROOTS)
    while wanted:
        name = wanted.pop()
        if name not in derived:
            derived[name] = _bare(components[name])
            wanted += _references(derived[name])
    for name, property_name in _NULL_IN_EXAMPLES:
        _allow_null(derived[name], property_name)
    return {"version": published["info"]["version"], "$defs": dict(sorted(derived.items()))}


def _bare(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema  # `true`, `false`
    bare = {key: schema[key] for key in sorted(_KEPT & schema.keys())}
    if "$ref" in schema:
        bare["$ref"] = "#/$defs/" + schema["$ref"].removeprefix(_PREFIX)
    if "properties" in schema:
        bare["properties"] = {name: _bare(value) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            bare[key] = _bare(schema[key])
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        bare["anyOf"] = [_bare(branch) for branch in branches]
    if "allOf" in schema:
        bare["allOf"] = [_bare(branch) for branch in schema["allOf"]]
    return {"anyOf": [bare, {"type": "null"}]} if schema.get("nullable") else bare


def _allow_null(schema: dict[str, Any], name: str) -> None:
    for part in (schema, *schema.get("allOf", ())):
        if name in part.get("properties", ()):
            part["properties"][name] = {"anyOf": [part["properties"][name], {"type": "null"}]}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for item in schema for name in _references(item)]
    if not isinstance(schema, dict):
        return []
    found = [name for value in schema.values() for name in _references(value)]
    reference = schema.get("$ref")
    return [*found, reference.removeprefix("#/$defs/")] if isinstance(reference, str) else found


def _write(derived: dict[str, Any]) -> None:
    """One component a line, so that differences can be read."""
    lines = [f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in derived["$defs"].items()]
    text = f'{{"version": {json.dumps(derived["version"])}, "$defs": {{\n' + ",\n".join(lines) + "\n}}\n"
    DERIVED.write_text(text)


if __name__ == "__main__":
    _write(derive(json.loads(Path(sys.argv[1]).read_text())))
