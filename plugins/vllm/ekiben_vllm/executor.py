"""What runs in the process that computes, and what it has of the replica.

vLLM starts that process as a fork of the replica, which spares it all imports. Here it is tied to the
replica's life, and told its number of threads: vLLM would tell it by environment variables, which a fork
has no use for.
"""

from __future__ import annotations

import os
from typing import Final

import torch
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from ekiben.contract.parent import die_with_parent

THREADS: Final = "ekiben_threads"
"""In vLLM's `additional_config`."""


class OneDevice(UniProcExecutor):  # type: ignore[misc] # no types come with vLLM
    """vLLM's own, in the process that schedules."""

    def _init_executor(self) -> None:
        die_with_parent(os.getppid())
        if (threads := self.vllm_config.additional_config.get(THREADS)) is not None:
            torch.set_num_threads(threads)
            if self.model_config.enforce_eager:
                # Or the first request for logprobs waits for a compiler, most of a minute.
                torch.compiler.set_stance("force_eager")
        super()._init_executor()


class ManyDevices(MultiprocExecutor):  # type: ignore[misc]
    """vLLM's own, with a process for each device; those end with the one that schedules."""

    def _init_executor(self) -> None:
        die_with_parent(os.getppid())
        super()._init_executor()
