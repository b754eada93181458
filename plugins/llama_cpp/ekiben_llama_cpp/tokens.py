"""The model's tokenizer, as llama.cpp shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ekiben.contract import InvalidRequest, TokenizeRequest, Tokens
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.messages import MessageReader

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class LlamaTokenizer:
    """`Tokenizer` of the contract. What looks like a special token in a text is one, as in completions."""

    def __init__(self, client: LlamaClient, *, context: int, messages: MessageReader | None) -> None:
        """`messages`: None for models that hold no conversations."""
        self._client = client
        self._context = context
        self._messages = messages

    @property
    def max_model_tokens(self) -> int:
        return self._context

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        if request.messages is None:
            return await self.tokens_of(request.text or "", special=request.add_special_tokens)
        return await self.tokens_of(await self._rendered(request), special=True)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return await self.text_of(tokens, "tokens")

    async def text_of(self, tokens: Sequence[int], param: str) -> str:
        """`param`: the field of the request that they come from."""
        known = await self._client.vocabulary_size()
        for token in tokens:
            if not 0 <= token < known:
                raise InvalidRequest(
                    f"{token} is no token of this model: they go from 0 to {known - 1}", param=param
                )
        return await self._client.detokenize(tokens)

    async def tokens_of(self, text: str, *, special: bool) -> Tokens:
        """`special`: with what the tokenizer puts around a text by itself."""
        found = await self._client.tokenize(text, special=special)
        return Tokens(
            ids=[token["id"] for token in found],
            texts=[token["piece"] if isinstance(token["piece"], str) else _REPLACEMENT for token in found],
        )

    async def _rendered(self, request: TokenizeRequest) -> str:
        if self._messages is None:
            raise InvalidRequest("this model has no chat template: tokenize a text", param="messages")
        asked: dict[str, Any] = {
            "messages": self._messages.read(request.messages or ()),
            "add_generation_prompt": request.add_generation_prompt,
        }
        if self._messages.media_in(asked["messages"]):
            raise InvalidRequest("pictures and sounds have no tokens that could be shown", param="messages")
        if request.tools:
            asked["tools"] = list(request.tools)
        return await self._client.render(asked)
