"""llama.cpp's own server, inside this process and on a socket that only this process's user can reach.

Starting and stopping block: call them on a thread. llama.cpp writes what it has to say to the standard
error stream, past Python.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed, LoadRequest
from ekiben.contract.gguf import GgufModel
from ekiben_llama_cpp.memory import batch_tokens, context_tokens
from ekiben_llama_cpp.template import template_for

SPARE_THREADS: Final = 8
"""For requests that wait beyond those that are computed: each holds a thread of llama.cpp's server."""

_LONGEST_SOCKET_PATH: Final = 107
_ALL_LAYERS: Final = 999
_ERRORS: Final = 1
_LOG_WAIT_S: Final = 0.02
_LOG_TRIES: Final = 15
_ERROR_LINE: Final = re.compile(r"^\S+ E +\S+: (?P<text>.+)$", re.MULTILINE)


class NativeServer:
    """A loaded model and the socket on which it answers."""

    def __init__(self, request: LoadRequest, model: GgufModel) -> None:
        """Load. Blocking, without the interpreter's lock; raises LoadFailed."""
        from ekiben_llama_cpp.library import llama

        self._folder = os.open(request.scratch, os.O_RDONLY | os.O_DIRECTORY)
        self.socket = _socket_path(request.scratch, self._folder)
        parameters = llama.CommonParams()
        _describe_model(parameters, request, model)
        _describe_service(parameters, request.options, self.socket, alias=request.model.name)
        _describe_devices(parameters, request)
        log = _NativeLog()
        try:
            self._server: Any = llama.Server(parameters)
        except RuntimeError as error:
            os.close(self._folder)
            reason = log.first_error() or f"{' '.join(str(error).split())} (its log says more)"
            raise LoadFailed(f"llama.cpp cannot load {request.weights.name!r}: {reason}") from None

    def stop(self) -> None:
        """Free the model. Blocking."""
        self._server = None
        os.close(self._folder)


def _describe_model(parameters: Any, request: LoadRequest, model: GgufModel) -> None:
    from ekiben_llama_cpp.library import llama

    options = request.options
    parameters.model.path = str(request.weights)
    parameters.n_parallel = options["parallel"]
    # Not one pool for all: llama.cpp fails every running request when a shared pool overflows.
    parameters.kv_unified = False
    parameters.n_ctx = context_tokens(model, options) * options["parallel"]
    batch = batch_tokens(options, device=request.device.kind)
    parameters.n_ubatch = batch
    parameters.n_batch = max(batch, options["parallel"])
    kind = getattr(llama.ggml_type, f"GGML_TYPE_{options['kv_cache'].upper()}")
    parameters.cache_type_k = parameters.cache_type_v = kind
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options["flash_attention"]]
    parameters.flash_attn_type = getattr(llama.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    parameters.chat_template = template_for(model, options.get("chat_template"))
    parameters.prefill_assistant = False  # a last message of the assistant is answered, not continued
    # Both would cost most of a cold start; what fits is decided before a replica is started.
    parameters.fit_params = False
    parameters.warmup = False


def _describe_service(parameters: Any, options: Mapping[str, Any], socket: str, *, alias: str) -> None:
    parameters.hostnames = [socket]
    parameters.model_alias = {alias}
    parameters.n_threads_http = http_threads(options)
    parameters.cache_ram_mib = options["prompt_cache_mb"]
    parameters.sse_ping_interval = -1
    parameters.verbosity = _ERRORS
    parameters.ui = False
    parameters.endpoint_slots = True  # tells when the loop has begun to turn
    parameters.endpoint_props = False
    parameters.endpoint_metrics = False
    parameters.cors_origins = ""


def _describe_devices(parameters: Any, request: LoadRequest) -> None:
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = request.threads
    if request.device.kind == "cpu":
        parameters.n_gpu_layers = 0
    else:
        _require_gpu(request.device.kind)
        parameters.n_gpu_layers = request.options.get("gpu_layers", _ALL_LAYERS)
        parameters.main_gpu = request.device.index


def _require_gpu(kind: str) -> None:
    from ekiben_llama_cpp.library import llama

    if not any("GPU" in device["type"].name for device in llama.get_device_info()):
        raise LoadFailed(
            f"the installed xllamacpp has no support for {kind}: install a build for it, or use device cpu"
        )


def http_threads(options: Mapping[str, Any]) -> int:
    """Threads of llama.cpp's server; more requests than these wait on this side."""
    count: int = 2 * options["parallel"] + SPARE_THREADS
    return count


def _socket_path(folder: Path, descriptor: int) -> str:
    """Socket paths are short by law; a folder that lies deep is reached through its descriptor."""
    path = str(folder / "llama.sock")
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    return f"/proc/self/fd/{descriptor}/llama.sock"


class _NativeLog:
    """What llama.cpp writes to the standard error stream from now on, where that is a file."""

    def __init__(self) -> None:
        self._start = self._size()

    def first_error(self) -> str | None:
        """The first line of level error: what it stumbled on, before its consequences."""
        if self._start is None:
            return None
        for _ in range(_LOG_TRIES):  # llama.cpp logs on a thread of its own
            with Path("/proc/self/fd/2").open("rb") as log:
                log.seek(self._start)
                found = _ERROR_LINE.search(log.read().decode("utf-8", "replace"))
            if found:
                return found["text"].strip()
            time.sleep(_LOG_WAIT_S)
        return None

    @staticmethod
    def _size() -> int | None:
        status = os.fstat(2)
        return status.st_size if stat.S_ISREG(status.st_mode) else None
