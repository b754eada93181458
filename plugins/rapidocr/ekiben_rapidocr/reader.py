"""Reading one page with RapidOCR's models. Imports the library, so only `load` imports this module."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]
from omegaconf import flag_override
from PIL import Image
from rapidocr import RapidOCR

from ekiben.contract import EngineError, InvalidRequest, LoadFailed, OcrLine, OcrPage, OcrRequest
from ekiben.contract.threads import WorkerThread
from ekiben_rapidocr.engine import OcrFiles
from ekiben_rapidocr.layout import in_reading_order

MIN_SIDE: Final = 300
MAX_ASPECT: Final = 4
"""The detector enlarges pictures until their short side has 736 pixels: letters of a small or thin one would
grow out of its sight, and a strip to gigabytes. So such pictures get a margin instead."""


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
        self._max_side = max_side

    def read(self, image: bytes, reading: Reading) -> OcrPage:
        """All lines of the page. Raises InvalidRequest and EngineError."""
        picture = _decode(image)
        for session in self._sessions:
            session.reading = reading
        try:
            found = self._ocr(_with_margin(_within(picture, self._max_side)))
        except Exception as error:
            raise EngineError(f"rapidocr could not read the picture: {type(error).__name__}") from error
        return _page(picture.size, found, scale=max(1.0, max(picture.size) / self._max_side))


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


def _within(picture: Image.Image, max_side: int) -> Image.Image:
    """The picture, made smaller where it is larger: before the margin, which would be larger still."""
    longest = max(picture.size)
    if longest <= max_side:
        return picture
    width, height = (max(1, round(side * max_side / longest)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _with_margin(picture: Image.Image) -> Image.Image:
    """The picture with room to its right and below, in the colour of its corner; boxes stay as they are."""
    width, height = picture.size
    right = max(MIN_SIDE, -(-height // MAX_ASPECT)) - width
    below = max(MIN_SIDE, -(-width // MAX_ASPECT)) - height
    if right <= 0 and below <= 0:
        return picture
    canvas = Image.new(picture.mode, (width + max(0, right), height + max(0, below)), _corner(picture))
    canvas.paste(picture)
    return canvas


def _corner(picture: Image.Image) -> tuple[int, ...]:
    width, height = picture.size
    return tuple(picture.crop((width - 1, height - 1, width, height)).tobytes())


def _page(size: tuple[int, int], found: Any, *, scale: float) -> OcrPage:
    """`scale`: how many pixels of the picture as sent one pixel of the picture as read is."""
    width, height = size
    if not found.txts:
        return OcrPage(width=width, height=height)
    lines = [
        OcrLine(
            text=text,
            score=float(score),
            box=[(min(float(x) * scale, width), min(float(y) * scale, height)) for x, y in box],
        )
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
    ]
    return OcrPage(width=width, height=height, lines=in_reading_order(lines))
