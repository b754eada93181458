"""A loaded model: OpenAI's requests into vLLM's own handlers, and their objects out of them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest, TokenizeCompletionRequest
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ekiben.contract import (
    EngineError,
    InvalidRequest,
    TextRequest,
    TokenizeRequest,
    Tokens,
)
from ekiben.contract.threads import WorkerThread
from ekiben_vllm import answers, failures
from ekiben_vllm.formats import Knowledge
from ekiben_vllm.service import Service, adapter_name
from ekiben_vllm.translation import chat_fields, completion_fields

logger = logging.getLogger(__name__)

_DATA: Final = "data: "
_DONE: Final = "[DONE]"
_ERROR: Final = '{"error"'


class VllmModel:
    """Chat, Complete and Tokenizer of the contract."""

    def __init__(self, service: Service, worker: WorkerThread, *, name: str, known: Knowledge) -> None:
        """`worker`: the thread that brought the engine up, and takes it down."""
        self._service = service
        self._worker = worker
        self._name = name
        self._known = known

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        fields = chat_fields(request.body, known=self._known)
        with _in_our_words(request.body):
            ask = ChatCompletionRequest.model_validate(fields | {"model": self._serving(request.adapter)})
            answer = await self._service.chat.create_chat_completion(ask)
        async with aclosing(self._objects(request, answer, "chat", answers.chat_answer)) as objects:
            async for item in objects:
                yield item

    async def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        fields = completion_fields(request.body)
        with _in_our_words(request.body):
            ask = CompletionRequest.model_validate(fields | {"model": self._serving(request.adapter)})
            answer = await self._service.completion.create_completion(ask)
        async with aclosing(self._objects(request, answer, "text", answers.text_answer)) as objects:
            async for item in objects:
                yield item

    @property
    def max_model_tokens(self) -> int:
        length: int = self._service.engine.model_config.max_model_len
        return length

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        fields: dict[str, Any] = {"model": self._serving(request.adapter)}
        ask: Any
        with _in_our_words({"messages": ()} if request.messages is not None else {}):
            if request.messages is None:
                fields |= {"prompt": request.text or "", "add_special_tokens": request.add_special_tokens}
                ask = TokenizeCompletionRequest.model_validate(fields)
            else:
                fields |= {
                    "messages": list(request.messages),
                    "tools": list(request.tools) or None,
                    "add_generation_prompt": request.add_generation_prompt,
                }
                ask = TokenizeChatRequest.model_validate(fields)
            answer = await self._service.tokenization.create_tokenize(ask, None)
        if isinstance(answer, ErrorResponse):
            raise failures.told(answer.error.model_dump(), {})
        texts = convert_ids_list_to_tokens(self._tokenizer, answer.tokens)
        return Tokens(ids=answer.tokens, texts=texts)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        size = max(len(self._tokenizer), self._service.engine.model_config.get_vocab_size())
        for token in tokens:
            if not 0 <= token < size:
                raise InvalidRequest(f"{token} is not a token: they go from 0 to {size - 1}", param="tokens")
        text: str = await asyncio.to_thread(self._tokenizer.decode, list(tokens))
        return text

    async def unload(self) -> None:
        self._service.let_go()
        await self._worker.run(self._service.close)
        self._worker.close()

    def requests_in_engine(self) -> int:
        """How many the engine has not done with."""
        count: int = self._service.engine.get_num_unfinished_requests()
        return count

    @property
    def _tokenizer(self) -> Any:
        return self._service.engine.get_tokenizer()

    def _serving(self, adapter: str | None) -> str:
        return self._name if adapter is None else adapter_name(self._name, adapter)

    async def _objects(
        self, request: TextRequest, answer: Any, kind: str, whole: Callable[..., bytes]
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(answer, ErrorResponse):
            _raise_if_cancelled()
            raise failures.told(answer.error.model_dump(), request.body)
        if not request.stream:
            yield whole(answer.model_dump_json(), model=request.model)
            return
        wanted = (request.body.get("stream_options") or {}).get("include_usage")
        stream = answers.Stream(kind, model=request.model, with_usage=bool(wanted))
        async with aclosing(answer) as events:
            async for event in events:
                data = event.removeprefix(_DATA).rstrip()
                if data.startswith(_ERROR):
                    self._look_for_death()
                    raise failures.told(json.loads(data)["error"], request.body)
                if data != _DONE and (item := stream.write(data)) is not None:
                    yield item
        if not stream.ended:
            raise EngineError("vLLM broke off in the middle of an answer: try again")

    def _look_for_death(self) -> None:
        if self._service.engine.errored:
            _end_process()


@contextmanager
def _in_our_words(body: Mapping[str, Any]) -> Iterator[None]:
    """Whatever vLLM raises before an answer has begun."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:1]) or None
        raise failures.refused(first["msg"], place, body) from None
    except VLLMClientError as error:
        raise failures.refused(str(error), getattr(error, "parameter", None), body) from None
    except EngineDeadError as error:
        _end_process()
        raise EngineError("vLLM's engine has died: try again") from error
    except (VLLMServerError, EngineGenerateError) as error:
        raise EngineError(f"vLLM failed: {error or type(error).__name__}: try again") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        # vLLM's own server takes these for the client's as well.
        raise failures.refused(str(error), None, body) from None


def _raise_if_cancelled() -> None:
    """vLLM answers a cancelled request with an error, and swallows the cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _end_process() -> None:
    """Without its engine a replica is of no use: let it end, so that the next request gets a new one."""
    logger.error("vllm's engine has died: this replica ends")
    signal.raise_signal(signal.SIGTERM)
