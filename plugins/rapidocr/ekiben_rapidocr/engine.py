"""RapidOCR as an engine: which files it needs, what they will hold, and the loading of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ekiben.contract import LoadedModel, LoadFailed, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread

LIBRARY_BYTES: Final = 50 * 2**20
"""What onnxruntime and the libraries for pictures hold by themselves."""
WORKING_BYTES_PER_PIXEL: Final = 250
"""Of a page as it is read: the detector's activations, measured on a full page of `max_side` squared."""


@dataclass(frozen=True, slots=True)
class OcrFiles:
    """The ONNX models of a folder."""

    detector: Path
    recognizer: Path
    classifier: Path | None
    """Tells lines that stand on their head; not all sets have one."""
    characters: Path | None
    """The recognizer's alphabet, where it does not carry it itself."""

    @property
    def size_bytes(self) -> int:
        models = (self.detector, self.recognizer, self.classifier)
        return sum(path.stat().st_size for path in models if path is not None)


class RapidOcr:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        files = find_files(request.weights)
        library = 0 if "onnxruntime" in sys.modules else LIBRARY_BYTES
        page = WORKING_BYTES_PER_PIXEL * int(request.options["max_side"]) ** 2
        return MemoryEstimate(weights_bytes=files.size_bytes, working_bytes=library + page)

    async def load(self, request: LoadRequest) -> LoadedModel:
        files = find_files(request.weights)
        loader = WorkerThread("load")
        try:
            return await loader.run(_open, files, request)
        finally:
            loader.close()


def find_files(folder: Path) -> OcrFiles:
    """Tell the models apart by their names. Raises LoadFailed."""
    if not folder.is_dir():
        raise LoadFailed(f"rapidocr needs a folder of ONNX models, and {folder.name!r} is none")
    detector, recognizer = _only(folder, "det"), _only(folder, "rec")
    if detector is None or recognizer is None:
        missing = "a detector (*det*.onnx)" if detector is None else "a recognizer (*rec*.onnx)"
        raise LoadFailed(f"the folder {folder.name!r} lacks {missing}: rapidocr needs both")
    characters = sorted(folder.glob("*.txt"))
    return OcrFiles(detector, recognizer, _only(folder, "cls"), characters[0] if characters else None)


def _only(folder: Path, task: str) -> Path | None:
    found = sorted(folder.glob(f"*{task}*.onnx"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise LoadFailed(f"the folder {folder.name!r} has several models for {task}: {names}; keep one")
    return found[0] if found else None


def _open(files: OcrFiles, request: LoadRequest) -> LoadedModel:
    """On a thread, since the imports alone take a second."""
    from ekiben_rapidocr.reader import LoadedReader, PageReader

    reader = PageReader(
        files,
        threads=request.threads,
        min_score=float(request.options["min_score"]),
        max_side=int(request.options["max_side"]),
        upside_down=bool(request.options["upside_down"]),
    )
    request.report(1.0)
    return LoadedReader(reader)
