"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes: texts and conversations as the model reads them.

For models whose engine shows its tokenizer; others say so.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ekiben.contract.abilities import Tokenizer, TokenizeRequest
from ekiben.contract.model import TEXT_ABILITIES
from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.http import Answer, Request, Route, check_model_name
from ekiben.runtime.text import wire
from ekiben.runtime.text.wire import Surface

MAX_CHARACTERS: Final = 2**22
MAX_TOKENS: Final = 2**20

_OF_TEXT: Final = ("add_special_tokens",)
_OF_CONVERSATION: Final = ("add_generation_prompt", "tools")
_FIELDS: Final = ("model", "prompt", "messages", "return_token_strs", *_OF_TEXT, *_OF_CONVERSATION)
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "add_special_tokens": (False,),  # of a conversation: templates write their own
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "mm_processor_kwargs": ({},),
}
"""Known to others; here they may be sent with what asks for nothing."""


async def tokenize(request: Request) -> Answer:
    """A text's tokens, or a conversation's behind the model's template."""
    body = request.json()
    name = check_model_name(request, body.get("model"), adapters=True)
    tokenizer = tokenizer_of(request)
    asked = await _parse(body, adapter=request.model.adapter_of(name))
    tokens = await tokenizer.tokenize(asked)
    answer = {
        "count": len(tokens.ids),
        "max_model_len": tokenizer.max_model_tokens,
        "tokens": list(tokens.ids),
        "token_strs": list(tokens.texts) if _flag(body, "return_token_strs", default=False) else None,
    }
    return Answer(msgspec.json.encode(answer))


async def detokenize(request: Request) -> Answer:
    """The text of tokens."""
    body = request.json()
    check_model_name(request, body.get("model"), adapters=True)
    tokenizer = tokenizer_of(request)
    for name in body:
        if name not in ("model", "tokens"):
            raise _unknown(name)
    return Answer(
        msgspec.json.encode({"prompt": await tokenizer.detokenize(_token_list(body.get("tokens")))})
    )


async def _parse(body: dict[str, Any], *, adapter: str | None) -> TokenizeRequest:
    given = {name: value for name, value in body.items() if value is not None}
    if ("prompt" in given) == ("messages" in given):
        raise InvalidRequest("send either 'prompt' or 'messages'", param="prompt")
    conversation = "messages" in given
    _check_fields(given, conversation=conversation)
    _flag(body, "return_token_strs", default=False)
    if not conversation:
        return TokenizeRequest(
            text=_text(given["prompt"]),
            add_special_tokens=_flag(body, "add_special_tokens", default=True),
            adapter=adapter,
        )
    await wire.ready()
    wire.validate(
        Surface.CHAT, {name: given[name] for name in ("model", "messages", "tools") if name in given}
    )
    return TokenizeRequest(
        messages=given["messages"],
        tools=given.get("tools", ()),
        add_generation_prompt=_flag(body, "add_generation_prompt", default=True),
        adapter=adapter,
    )


def _check_fields(given: dict[str, Any], *, conversation: bool) -> None:
    strange = _OF_TEXT if conversation else _OF_CONVERSATION
    for name, value in given.items():
        if name in _FIELDS and name not in strange:
            continue
        if name in _NEUTRAL and (conversation or name not in _FIELDS):
            if value not in _NEUTRAL[name]:
                raise UnsupportedParameter(f"{name!r} cannot be honoured here: leave it out", param=name)
        elif name in strange:
            raise InvalidRequest(f"{name!r} is for {'a prompt' if conversation else 'messages'}", param=name)
        else:
            raise _unknown(name)


def _unknown(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name[:64]!r} is not a field of this request", param=name[:64])


def tokenizer_of(request: Request) -> Tokenizer:
    """Of the model that was loaded. Raises InvalidRequest where its engine does not show it."""
    loaded: object = request.loaded
    if not isinstance(loaded, Tokenizer):
        raise InvalidRequest(
            f"the engine of {request.model.name!r} does not show its tokenizer", param="model"
        )
    return loaded


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest("'prompt' must be a text", param="prompt")
    if len(value) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"'prompt' has {len(value)} characters, the limit is {MAX_CHARACTERS}", param="prompt"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("'prompt' has half of a surrogate pair", param="prompt") from None
    return value


def _token_list(value: object) -> list[int]:
    if value is None:
        raise InvalidRequest("'tokens' is required", param="tokens")
    if not isinstance(value, list) or not all(_is_token(token) for token in value):
        raise InvalidRequest(
            "'tokens' must be a list of tokens, which are whole numbers from 0", param="tokens"
        )
    if len(value) > MAX_TOKENS:
        raise InvalidRequest(f"'tokens' has {len(value)} entries, the limit is {MAX_TOKENS}", param="tokens")
    return value


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _flag(body: dict[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise InvalidRequest(f"{name!r} must be true or false", param=name)
    return default if value is None else value


ROUTES: Final = tuple(
    Route("POST", path + name, TEXT_ABILITIES, handler)
    for path in ("/", "/v1/")
    for name, handler in (("tokenize", tokenize), ("detokenize", detokenize))
)
