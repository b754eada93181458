"""A model as torch has it, written down for other libraries: once, and only if it gives the same numbers.

Exports lie in the replica's cache, under a name that other weights and other versions do not have. Several
replicas may make one at a time; the first that is done has it.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from ekiben.contract import LoadFailed, LoadRequest
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.graphs import HIDDEN

PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")
"""What an export is made with, and compared."""
FILE: Final = "model.onnx"
TOLERANCE: Final = 1e-4
"""Of the largest number."""
MODEL_TEXTS: Final = ("one text", "and a longer one, of several words")
"""What is watched on its way through the model."""
OTHER_TEXTS: Final = (("a",), ("b c d " * 9, "e f", "g h i j", "k"))
"""What the export is compared by: other numbers of texts, and other lengths."""


class Export:
    def __init__(self, model: Any, tokenizer: Any, *, names: Sequence[str], output: str) -> None:
        """`names`: the model's inputs; `output`: the field of its answer that is wanted."""
        self._model = _Positional(model, names, output).eval()
        self._tokenizer = tokenizer
        self._names = names
        self._hidden = output == HIDDEN

    def file(self, folder: ModelFolder, request: LoadRequest, *, int8: bool) -> Path:
        """Of an earlier load, or else made now. Raises LoadFailed."""
        exports = (request.cache or request.scratch) / "exports"
        whole = _once(exports / _mark(folder), self._write)
        return _once(whole.parent.with_name(f"{whole.parent.name}-int8"), _shrink(whole)) if int8 else whole

    def _write(self, path: Path) -> None:
        inputs = self._inputs(MODEL_TEXTS)
        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(
                    self._model,
                    tuple(inputs.values()),
                    path,
                    input_names=list(inputs),
                    dynamic_shapes=(tuple(dynamic for _ in inputs),),
                    dynamo=True,
                )
        except Exception as error:
            raise LoadFailed(
                f"the model cannot be exported ({type(error).__name__}): leave the option backend out"
            ) from error
        self._compare(path)

    def _compare(self, path: Path) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for texts in OTHER_TEXTS:
            inputs = self._inputs(texts)
            with torch.inference_mode():
                expected = self._read(self._model(*inputs.values()).numpy(), inputs)
            feed = {name: inputs[name].numpy() for name in self._names}
            got = self._read(session.run(None, feed)[0], inputs)
            if np.abs(got - expected).max() > TOLERANCE * max(1.0, np.abs(expected).max()):
                raise LoadFailed(
                    "the exported model gives other numbers than the model: leave the option backend out"
                )

    def _inputs(self, texts: Sequence[str]) -> dict[str, Any]:
        encoded = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return {name: encoded[name] for name in self._names}

    def _read(self, output: NDArray[Any], inputs: dict[str, Any]) -> NDArray[Any]:
        """Without what stands for padding."""
        return output[inputs["attention_mask"].numpy().astype(bool)] if self._hidden else output


class _Positional(torch.nn.Module):
    """A model whose inputs have an order, and which gives one of its outputs."""

    def __init__(self, model: Any, names: Sequence[str], output: str) -> None:
        super().__init__()
        self.model = model
        self._names = names
        self._output = output

    def forward(self, *inputs: Any) -> Any:
        answer = self.model(**dict(zip(self._names, inputs, strict=True)), return_dict=True)
        return answer[self._output]


def _shrink(whole: Path) -> Any:
    """Writes its weights in int8; they become numbers again, of what the batch is like, as it is computed."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

        quantize_dynamic(whole, path, per_channel=True, weight_type=QuantType.QInt8)

    return write


def _once(folder: Path, write: Any) -> Path:
    """The file in a folder that is either not there, or whole."""
    if not (folder / FILE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as building:
            made = Path(building) / "made"
            made.mkdir()
            write(made / FILE)
            with suppress(OSError):  # another replica was quicker
                made.rename(folder)
    return folder / FILE


def _mark(folder: ModelFolder) -> str:
    """Of these weights, as they are exported by these versions."""
    parts = [torch.__version__, transformers.__version__]
    for path in sorted((*folder.path.rglob("*.safetensors"), *folder.path.rglob("config.json"))):
        stat = path.stat()
        parts.append(f"{path.relative_to(folder.path)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of each of their steps, and of what they would like to be called by."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
