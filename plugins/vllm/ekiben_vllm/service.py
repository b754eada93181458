"""vLLM's engine and its OpenAI layer, brought up and taken down.

The one place that makes vLLM's objects. Importing this imports vLLM: `ekiben_vllm.library` comes first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath, LoRAModulePath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from ekiben_vllm.executor import THREADS, ManyDevices, OneDevice

_CONTENT_FORMAT: Final = "auto"


def open_engine(arguments: Mapping[str, Any], *, threads: int, devices: int) -> AsyncLLM:
    """Blocks until the model is in memory. Raises whatever vLLM raises.

    `threads`: of a CPU. The process that computes is tied to the thread that calls this.
    """
    config = engine_config(arguments, threads=threads, devices=devices)
    if current_platform.is_cpu():
        # vLLM would spawn, to give the process another environment, and import everything once more.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"  # noqa: TID251 - vLLM looks nowhere else
    return AsyncLLM.from_vllm_config(config)


def engine_config(arguments: Mapping[str, Any], *, threads: int, devices: int) -> VllmConfig:
    """Where the arguments say nothing, what vLLM's own server would choose for the device."""
    asked = AsyncEngineArgs(
        **arguments,
        distributed_executor_backend=OneDevice if devices == 1 else ManyDevices,
        additional_config={THREADS: threads} if current_platform.is_cpu() else {},
        disable_log_stats=False,
        enable_log_requests=False,
    )
    return asked.create_engine_config(UsageContext.OPENAI_API_SERVER)


class _ClientErrors(logging.Filter):
    """Keeps from the log what is told to the client; vLLM would write each down with its stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[1] if record.exc_info else None
        return not isinstance(raised, VLLMClientError)


for _name in (OpenAIServingChat.__module__, OpenAIServingCompletion.__module__):
    logging.getLogger(_name).addFilter(_ClientErrors())


class Service:
    """vLLM's handlers of OpenAI's routes, over one engine."""

    def __init__(
        self,
        engine: AsyncLLM,
        *,
        name: str,
        adapters: Mapping[str, Path],
        template: str | None,
        tool_parser: str,
        reasoning_parser: str | None,
    ) -> None:
        self.engine = engine
        base = BaseModelPath(name=name, model_path=engine.model_config.model)
        self.models = OpenAIServingModels(
            engine,
            [base],
            lora_modules=[LoRAModulePath(name=key, path=str(path)) for key, path in adapters.items()],
        )
        shared: dict[str, Any] = {
            "request_logger": None,
            "chat_template": template,
            "chat_template_content_format": _CONTENT_FORMAT,
        }
        parsers: dict[str, Any] = {
            "enable_auto_tools": True,
            "tool_parser": tool_parser,
            "reasoning_parser": reasoning_parser or "",
        }
        self.renderer = OnlineRenderer(engine.model_config, engine.renderer, **shared, **parsers)
        self.chat = OpenAIServingChat(
            engine,
            self.models,
            "assistant",
            online_renderer=self.renderer,
            enable_prompt_tokens_details=True,
            **shared,
            **parsers,
        )
        self.completion = OpenAIServingCompletion(
            engine,
            self.models,
            online_renderer=self.renderer,
            request_logger=None,
            enable_prompt_tokens_details=True,
        )
        self.tokenization = ServingTokenization(self.models, self.renderer, **shared)

    async def load_adapters(self) -> None:
        """Raises ValueError."""
        await self.models.init_static_loras()

    def let_go(self) -> None:
        """Listen to the engine no more, for which its end would be a failure. On the event loop."""
        if self.engine.output_handler is not None:
            self.engine.output_handler.cancel()

    def close(self) -> None:
        """Ends the process that computes. Blocks until it has."""
        self.engine.shutdown()


def adapter_name(model: str, adapter: str) -> str:
    """What vLLM knows it by; it must differ from the model's own name."""
    return f"{model}:{adapter}"
