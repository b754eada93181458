"""Reading one page with RapidOCR's models. Imports the library, so only `load` imports this module."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]
from omegaconf import flag_override
from PIL import Image, ImageOps
from rapidocr import RapidOCR

from ekiben.contract import EngineError, InvalidRequest, LoadFailed, OcrLine, OcrPage, OcrRequest
from ekiben.contract.threads import WorkerThread
from ekiben_rapidocr.engine import OcrFiles
from ekiben_rapidocr.layout import in_reading_order

MAX_TALL: Final = 8
"""Height over width. The detector enlarges the short side, so a thin strip would grow to gigabytes."""
MAX_WIDE: Final = 48


class Reading:
    """One page under way. `stop` may be called from any thread and ends the work at the next operator."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()

    def stop(self) -> None:
        self.options.terminate = True


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """Runs on behalf of the page under way, so that the page can be stopped."""

    reading = Reading()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        return super().run(output_names, input_feed, self.reading.options)


class PageReader:
    """The models. Blocking, and for one thread at a time. Never touches the network."""

    def __init__(
        self, files: OcrFiles, *, threads: int, min_score: float, max_side: int, upside_down: bool
    ) -> None:
        # RapidOCR would download what it is not given: an alphabet that is nowhere must fail here.
        recognizer = _session(files.recognizer, threads=threads)
        metadata = recognizer.get_modelmeta().custom_metadata_map
        if "character" not in metadata and files.characters is None:
            raise LoadFailed(
                f"{files.recognizer.name!r} has no alphabet: put its keys beside it as a .txt file"
            )
        sessions = {"Det": _session(files.detector, threads=threads), "Rec": recognizer}
        paths = {"Det": files.detector, "Rec": files.recognizer}
        if files.classifier is not None and upside_down:
            sessions["Cls"] = _session(files.classifier, threads=threads)
            paths["Cls"] = files.classifier
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": min_score,
                "Global.max_side_len": max_side,
                "Global.use_cls": "Cls" in sessions,
                "Rec.rec_keys_path": None if files.characters is None else str(files.characters),
                **{f"{task}.model_path": str(path) for task, path in paths.items()},
            }
        )
        with flag_override(self._ocr.cfg, "allow_objects", True):
            for task, session in sessions.items():
                self._ocr.cfg[task].session = session
        self._sessions = tuple(sessions.values())

    def read(self, image: bytes, reading: Reading) -> OcrPage:
        """All lines of the page. Raises InvalidRequest and EngineError."""
        picture = _decode(image)
        for session in self._sessions:
            session.reading = reading
        try:
            found = self._ocr(_padded(picture))
        except Exception as error:
            raise EngineError(f"rapidocr could not read the picture: {type(error).__name__}") from error
        return _page(picture.size, found)


class LoadedReader:
    """The LoadedModel."""

    def __init__(self, reader: PageReader, worker: WorkerThread) -> None:
        self._reader = reader
        self._worker = worker

    async def read_text(self, request: OcrRequest) -> OcrPage:
        """Pages are read one after the other, each with all threads."""
        reading = Reading()
        try:
            return await self._worker.run(self._reader.read, request.image, reading)
        finally:
            reading.stop()

    async def unload(self) -> None:
        self._worker.close()


def _session(path: Path, *, threads: int) -> _Session:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Pages differ in size: an arena would keep the memory of the largest one for ever.
    options.enable_cpu_mem_arena = False
    try:
        return _Session(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadFailed(
            f"{path.name!r} is not an ONNX model that can be run: {type(error).__name__}"
        ) from error


def _decode(image: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(image))
        picture.load()
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except Exception as error:
        raise InvalidRequest("the picture is broken", param="image") from error


def _padded(picture: Image.Image) -> Image.Image:
    """Room to the right of, or below, a picture so thin that the detector would blow it up."""
    width, height = picture.size
    right = max(0, -(-height // MAX_TALL) - width)
    below = max(0, -(-width // MAX_WIDE) - height)
    return ImageOps.expand(picture, (0, 0, right, below)) if right or below else picture


def _page(size: tuple[int, int], found: Any) -> OcrPage:
    width, height = size
    if not found.txts:
        return OcrPage(width=width, height=height)
    lines = [
        OcrLine(
            text=text,
            score=float(score),
            box=[(min(float(x), width), min(float(y), height)) for x, y in box],
        )
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
    ]
    return OcrPage(width=width, height=height, lines=in_reading_order(lines))
