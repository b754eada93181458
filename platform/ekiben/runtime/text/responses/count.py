"""`POST /v1/responses/input_tokens`: how long a request for a response is, as the model reads it."""

from __future__ import annotations

import json
from typing import Final

from ekiben.contract.abilities import TokenizeRequest
from ekiben.errors import EkibenError, InvalidRequest, UnsupportedParameter
from ekiben.runtime.http import Answer, Request, check_model_name
from ekiben.runtime.text import wire
from ekiben.runtime.text.responses.request import translate
from ekiben.runtime.text.tokens import tokenizer_of
from ekiben.runtime.text.wire import Surface

_FIELDS: Final = frozenset(
    {
        "conversation",
        "input",
        "instructions",
        "model",
        "parallel_tool_calls",
        "personality",
        "previous_response_id",
        "reasoning",
        "text",
        "tool_choice",
        "tools",
        "truncation",
    }
)


async def count_input_tokens(request: Request) -> Answer:
    """Counted behind the model's template, with the tools, up to the beginning of the answer."""
    body = request.json()
    name = check_model_name(request, body.get("model"), adapters=True)
    for field in body:
        if field not in _FIELDS:
            raise InvalidRequest(f"{field[:64]!r} is not a field of this request", param=field[:64])
    if body.get("personality") is not None:
        raise UnsupportedParameter("'personality' cannot be honoured: leave it out", param="personality")
    tokenizer = tokenizer_of(request)
    await wire.ready()
    wire.validate(Surface.RESPONSES, body)
    translation = translate(body)
    asked = TokenizeRequest(
        messages=translation.chat["messages"],
        tools=translation.chat.get("tools", ()),
        adapter=request.model.adapter_of(name),
    )
    try:
        tokens = await tokenizer.tokenize(asked)
    except EkibenError as error:
        raise translation.in_own_words(error) from None
    counted = {"object": "response.input_tokens", "input_tokens": len(tokens.ids)}
    return Answer(json.dumps(counted).encode())
