"""A network in a file, run by ONNX Runtime or OpenVINO in the place of a model's layers.

Only loads with the option `backend` import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from ekiben.contract import GivenUp, LoadFailed

Feed = Mapping[str, NDArray[np.int64]]
Wanted = Callable[[], bool]

HIDDEN: Final = "last_hidden_state"
LOGITS: Final = "logits"
FATAL: Final = 4
"""What ONNX Runtime is to write about: errors are raised anyway, and a run that is given up is none."""
LOOK_S: Final = 0.1
"""Between two looks whether anybody still waits for the batch."""


class Graph(Protocol):
    """A network that is ready to run. Blocks, and is for one thread."""

    @property
    def inputs(self) -> Sequence[str]:
        """Their names."""

    def run(self, feed: Feed, wanted: Wanted) -> NDArray[Any]:
        """Its first output. Raises GivenUp when it is not wanted any more."""


class OnnxGraph:
    """The Graph, by ONNX Runtime."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self._runtime: Any = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [self._session.get_outputs()[0].name]
        self._thread = ThreadPoolExecutor(1, "onnx")

    def run(self, feed: Feed, wanted: Wanted) -> NDArray[Any]:
        options = self._runtime.RunOptions()
        options.log_severity_level = FATAL
        running = self._thread.submit(self._session.run, self._outputs, dict(feed), options)
        while True:
            try:
                output: NDArray[Any] = running.result(LOOK_S)[0]
            except TimeoutError:
                options.terminate = not wanted()
            except Exception:
                if options.terminate:
                    raise GivenUp from None
                raise
            else:
                return output


class OpenVinoGraph:
    """The Graph, by OpenVINO."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import openvino  # type: ignore[import-untyped]

        core: Any = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes what the processor is quickest at
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
        self.inputs = [entry.any_name for entry in compiled.inputs]
        self._request: Any = compiled.create_infer_request()

    def run(self, feed: Feed, wanted: Wanted) -> NDArray[Any]:
        self._request.start_async(dict(feed))
        while not self._request.wait_for(round(LOOK_S * 1000)):
            if not wanted():
                self._request.cancel()
                with suppress(RuntimeError):  # says that it was cancelled
                    self._request.wait()
                raise GivenUp
        output: NDArray[Any] = self._request.get_output_tensor(0).data.copy()
        return output


class GraphModel(torch.nn.Module):
    """Looks like the transformers model that the graph was made of, as far as the library asks."""

    def __init__(self, graph: Graph, *, config: Any, output: str, names: Sequence[str]) -> None:
        """`names`: what the model's tokenizer makes of a text. Raises LoadFailed for other inputs."""
        super().__init__()
        if strange := sorted(set(graph.inputs) - set(names)):
            raise LoadFailed(
                f"the exported model wants {strange[0]!r}, which the model's tokenizer does not make: "
                "leave the option backend out"
            )
        self.config = config
        self.device = torch.device("cpu")
        self.wanted: Wanted = lambda: True
        """Set by those who compute with it."""
        self._graph = graph
        self._output = output

    def get_input_embeddings(self) -> Any:
        raise NotImplementedError("they are somewhere in the graph")

    def forward(self, **given: Any) -> Any:
        feed = {name: given[name].numpy() for name in self._graph.inputs}
        output: Any = torch.from_numpy(self._graph.run(feed, self.wanted))
        if self._output == HIDDEN:
            return BaseModelOutput(last_hidden_state=output)
        return SequenceClassifierOutput(logits=output)
