"""The option `backend`: another library than torch computes the model, from a file that is found or made.

A folder may bring the file. Otherwise it is exported of the model as torch has it, once. The library's own
way leads through Optimum, which does not go with the transformers that the library itself asks for: here
torch exports, and what runs the network stands in the place of the transformers model.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_sentence_transformers import exporting
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.graphs import Graph, GraphModel, OnnxGraph, OpenVinoGraph

TORCH: Final = "torch"
INT8: Final = "int8"
ONNX_FILES: Final = ("onnx/model.onnx", "model.onnx")
FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "onnx": ONNX_FILES,
    "openvino": ("openvino/openvino_model.xml", "openvino_model.xml", *ONNX_FILES),
}
"""Where a folder may have what the backend reads."""
PACKAGES: Final[Mapping[str, str]] = {"onnx": "onnxruntime", "openvino": "openvino"}
DTYPES: Final[Mapping[str, tuple[str, ...]]] = {"onnx": ("float32", INT8), "openvino": ("float32",)}
GRAPHS: Final[Mapping[str, Callable[..., Graph]]] = {"onnx": OnnxGraph, "openvino": OpenVinoGraph}


def is_torch(request: LoadRequest) -> bool:
    return bool(request.options["backend"] == TORCH)


def on_backend(
    model: Any, tokenizer: Any, folder: ModelFolder, request: LoadRequest, *, output: str
) -> GraphModel:
    """What computes in the place of a transformers model. `output`: the field of it that is asked for.

    Raises LoadFailed.
    """
    backend = str(request.options["backend"])
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in accepted]
    path = _found(folder, request)
    if path is None:
        _require(backend, *exporting.PACKAGES)
        export = exporting.Export(model, tokenizer, names=names, output=output)
        path = export.file(folder, request, int8=request.options["dtype"] == INT8)
    graph = GRAPHS[backend](path, threads=request.threads)
    return GraphModel(graph, config=model.config, output=output, names=names)


def check(request: LoadRequest) -> None:
    """Raises LoadFailed for what the backend does not have."""
    backend, dtype = str(request.options["backend"]), str(request.options["dtype"])
    if is_torch(request):
        return
    if request.device.kind != "cpu":
        raise LoadFailed(f"the option backend: {backend} is for the CPU: leave it out on a GPU")
    if dtype not in DTYPES[backend]:
        raise LoadFailed(
            f"the option backend: {backend} has no dtype: {dtype}, but {' and '.join(DTYPES[backend])}"
        )
    _require(backend, PACKAGES[backend])


def _found(folder: ModelFolder, request: LoadRequest) -> Path | None:
    """Files of a folder are as they are: int8 is made of an export."""
    if request.options["dtype"] == INT8:
        return None
    files = (folder.path / file for file in FILES[str(request.options["backend"])])
    return next((file for file in files if file.is_file()), None)


def _require(backend: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise LoadFailed(
            f"the option backend: {backend} needs {' and '.join(missing)} here: "
            f"pip install {' '.join(missing)}, or leave the option out"
        )
