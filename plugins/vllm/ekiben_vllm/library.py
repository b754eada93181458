"""vLLM, imported once: in a zygote ahead of all replicas, or by the load itself.

Nothing here may start a thread or touch a GPU. What vLLM imports late, with a load or a first request, is
imported here as well, so that a fork finds it there.
"""

from __future__ import annotations

import os

# vLLM and the hub's library are told only this way, and look when they are imported.
os.environ.update(  # noqa: TID251
    {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
)

import vllm.distributed.elastic_ep.elastic_execute
import vllm.entrypoints.openai.chat_completion.serving
import vllm.entrypoints.openai.completion.serving
import vllm.entrypoints.openai.models.serving
import vllm.entrypoints.serve.tokenize.serving
import vllm.model_executor.layers.quantization.online.base
import vllm.model_executor.model_loader.default_loader
import vllm.model_executor.models.llama
import vllm.model_executor.models.qwen2
import vllm.model_executor.models.qwen3
import vllm.renderers.hf
import vllm.tool_parsers.hermes_tool_parser
import vllm.v1.core.sched.scheduler
import vllm.v1.engine.async_llm
import vllm.v1.engine.core
import vllm.v1.executor.multiproc_executor
import vllm.v1.executor.uniproc_executor
import vllm.v1.structured_output.backend_guidance
import vllm.v1.structured_output.backend_xgrammar
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging_if_needed
from vllm.platforms import current_platform

if current_platform.is_cpu():
    import vllm.v1.attention.backends.cpu_attn
    import vllm.v1.worker.cpu_worker
else:
    import vllm.v1.worker.gpu_worker  # noqa: F401


def _override_kernels() -> None:
    """What each worker would do again: look through all modules for kernels that a CPU has others for."""
    current_platform.register_triton_kernel_overrides()
    platform = type(current_platform)
    platform.register_triton_kernel_overrides = classmethod(lambda cls: None)


configure_logging_if_needed(LoggingConfig())
if current_platform.is_cpu():
    _override_kernels()
