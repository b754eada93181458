"""HTTP to llama.cpp's server over its unix socket, and its errors as ours.

Every request has a connection of its own, closed as soon as nobody wants the answer: that is what makes
llama.cpp drop the work and free the slot, whatever it is doing.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

import aiohttp

from ekiben.contract import EngineError, InvalidRequest

_DATA: Final = b"data: "
_DONE: Final = b"[DONE]"
_ERROR: Final = b'{"error"'
_PROGRESS: Final = b'"prompt_progress":'
"""In an object that only tells how far the prompt is; within texts the quotes would be escaped."""

_LONG_FIELDS: Final = ("messages", "input", "documents")
"""What a request that is too long has too much of, if not a prompt."""
_FIELD: Final = re.compile(r"^Field '(?P<field>\w+)'")
_TOO_LARGE: Final = re.compile(r"input \((?P<tokens>\d+) tokens\) is too large.*batch size: (?P<limit>\d+)")
"""Of an input that must be computed in one step."""
_LONGEST_LINE_BYTES: Final = 2**22
_LONGEST_MESSAGE: Final = 300


class LlamaClient:
    """One per loaded model. Needs a running event loop."""

    def __init__(self, socket: str, *, connections: int) -> None:
        self._vocabulary_size: int | None = None
        self._session = aiohttp.ClientSession(
            # Connections that are kept would each hold one of the server's threads.
            connector=aiohttp.UnixConnector(socket, limit=connections, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_LONGEST_LINE_BYTES,
            auto_decompress=False,
        )

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        answer = await self._answer("POST", "/detokenize", {"tokens": tokens})
        text: str = answer["content"]
        return text

    async def tokenize(self, text: str, *, special: bool) -> list[dict[str, Any]]:
        """Each token's `id` and `piece`: a text, or bytes that are none."""
        body = {"content": text, "add_special": special, "with_pieces": True}
        tokens: list[dict[str, Any]] = (await self.ask("/tokenize", body))["tokens"]
        return tokens

    async def render(self, body: Mapping[str, Any]) -> str:
        """The prompt that the model's template makes of a conversation."""
        prompt: str = (await self.ask("/apply-template", body))["prompt"]
        return prompt

    async def vocabulary_size(self) -> int:
        if self._vocabulary_size is None:
            (model,) = (await self._answer("GET", "/v1/models"))["data"]
            self._vocabulary_size = int(model["meta"]["n_vocab"])
        return self._vocabulary_size

    async def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The whole answer to a request. Cancelling ends the work, within about a second."""
        return await self._answer("POST", path, body)

    async def slot(self, number: int, action: str, filename: str) -> Any:
        """Save what a slot holds, or restore it."""
        return await self.ask(f"/slots/{number}?action={action}", {"filename": filename})

    async def slots(self) -> list[dict[str, Any]]:
        """What each slot is doing. Answered by the loop that computes, between two of its steps."""
        slots: list[dict[str, Any]] = await self._answer("GET", "/slots")
        return slots

    async def slots_in_use(self) -> int:
        return sum(bool(slot["is_processing"]) for slot in await self.slots())

    async def _answer(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else _encode(body)
        try:
            async with self._session.request(method, _url(path), data=data, headers=_HEADERS) as response:
                payload = await response.read()
        except aiohttp.ClientError as error:
            raise _broken(error) from error
        if response.status != 200:
            raise _error(response.status, payload, body or {})
        return json.loads(payload)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The objects of a streamed answer, as they come. Closing ends the work."""
        try:
            async with self._session.post(_url(path), data=_encode(body), headers=_HEADERS) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read(), body)
                async for line in response.content:
                    data = line.removeprefix(_DATA).rstrip()
                    if not line.startswith(_DATA):
                        continue
                    if data == _DONE:
                        return
                    if data.startswith(_ERROR):
                        raise _error(500, data, body)
                    if _PROGRESS not in data:
                        yield data
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: an endless line
            raise _broken(error) from error
        raise EngineError("llama.cpp broke off in the middle of an answer: try again")

    async def close(self) -> None:
        await self._session.close()


_HEADERS: Final = {"content-type": "application/json"}


def _url(path: str) -> str:
    return f"http://llama{path}"


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _broken(error: Exception) -> EngineError:
    return EngineError(f"llama.cpp does not answer: {type(error).__name__}: {error}")


def _error(status: int, payload: bytes, body: Mapping[str, Any]) -> Exception:
    try:
        details = json.loads(payload)["error"]
        message = _sentence(str(details["message"]))
    except (ValueError, KeyError, TypeError):
        return EngineError(f"llama.cpp answered with status {status}")
    code = details.get("code", status)
    if details.get("type") == "exceed_context_size_error":
        return _too_long(body, details.get("n_prompt_tokens"), details.get("n_ctx"))
    if too_large := _TOO_LARGE.search(str(details["message"])):
        return _too_long(body, too_large["tokens"], too_large["limit"])
    if isinstance(code, int) and 400 <= code < 500:
        field = _FIELD.match(str(details["message"]))
        return InvalidRequest(message, param=field["field"] if field else None)
    return EngineError(f"llama.cpp failed: {message}")


def _too_long(body: Mapping[str, Any], tokens: object, limit: object) -> InvalidRequest:
    param = next((name for name in _LONG_FIELDS if name in body), "prompt")
    subject = "an input" if param == "input" else "the prompt"
    return InvalidRequest(
        f"{subject} has {tokens} tokens, more than the {limit} of the model's context: shorten it",
        param=param,
        code="context_length_exceeded",
    )


def _sentence(text: str) -> str:
    """One line, in the manner of our own messages."""
    line = " ".join(text.split())[:_LONGEST_MESSAGE].rstrip(".")
    return line if line[1:2].isupper() else line[:1].lower() + line[1:]
