"""Reading one page with RapidOCR's models. Imports the library, so only `load` imports this module."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime  # type: ignore[import-untyped]
from omegaconf import flag_override
from PIL import Image
from rapidocr import RapidOCR

from ekiben.contract import (
    Ability,
    Batching,
    EngineError,
    GivenUp,
    InvalidRequest,
    Item,
    LoadFailed,
    OcrLine,
    OcrPage,
    OcrRequest,
    Run,
)
from ekiben_rapidocr.engine import OcrFiles
from ekiben_rapidocr.layout import in_reading_order

MIN_SIDE: Final = 300
MAX_ASPECT: Final = 4
"""The detector enlarges pictures until their short side has 736 pixels: letters of a small or thin one would
grow out of its sight, and a strip to gigabytes. So such pictures get a margin instead."""
LOOK_EVERY_S: Final = 0.1
"""So often is it looked whether anybody still waits for the page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A picture as it is read."""

    picture: Image.Image
    size: tuple[int, int]
    """Of the picture as it was sent."""


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

    def page(self, image: bytes) -> Page:
        """Made ready for `read`. May run beside it. Raises InvalidRequest."""
        picture = _decode(image)
        return Page(_with_margin(_within(picture, self._max_side)), picture.size)

    def read(self, page: Page, reading: Reading) -> OcrPage:
        """All lines of the page. Raises EngineError."""
        for session in self._sessions:
            session.reading = reading
        try:
            found = self._ocr(page.picture)
        except Exception as error:
            raise EngineError(f"rapidocr could not read the picture: {type(error).__name__}") from error
        return _page(page.size, found, scale=max(1.0, max(page.size) / self._max_side))


class PageBatching:
    """One page at a time, each with all threads; the next one is made ready meanwhile.

    Lines of several pages in one batch would be padded to the longest and read a little differently: what
    a page says must not depend on who else has one.
    """

    max_items = 1
    max_length: int | None = None

    def __init__(self, reader: PageReader) -> None:
        self._reader = reader

    def items(self, request: OcrRequest) -> list[Item[Page]]:
        return [Item(self._reader.page(request.image))]

    def prepare(self, values: Sequence[Page]) -> Page:
        return values[0]

    def compute(self, prepared: Page, run: Run) -> list[OcrPage]:
        reading = Reading()
        try:
            with _stopped_when_unwanted(reading, run):
                return [self._reader.read(prepared, reading)]
        except EngineError:
            if not run.wanted:
                raise GivenUp from None
            raise

    def answer(self, request: OcrRequest, results: Sequence[OcrPage]) -> OcrPage:
        return results[0]


class LoadedReader:
    """The LoadedModel. The runtime's batcher asks it."""

    def __init__(self, reader: PageReader) -> None:
        self._batching: dict[Ability, Batching[Any, Any, Any, Any]] = {
            Ability.READ_TEXT: PageBatching(reader)
        }

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        return self._batching

    async def unload(self) -> None:
        self._batching.clear()


@contextmanager
def _stopped_when_unwanted(reading: Reading, run: Run) -> Iterator[None]:
    """The library's call looks at nothing by itself, so a thread looks beside it."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            if not run.wanted:
                reading.stop()
                return

    watcher = threading.Thread(target=look, name="rapidocr-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


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
