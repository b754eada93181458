"""A call of the pipeline under way: tells how far it has come, shows what is there, and ends it when told.

Every pipeline of the library draws a progress bar, and most call back after each step: this stands in for
both. The bar counts the steps; only the callback has the state of the picture in its hands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ekiben.contract import GivenUp, Preview, Run, Step
from ekiben_diffusers.previews import Decoder
from ekiben_diffusers.values import Value

CALLBACK: Final = "callback_on_step_end"


class Watch:
    """Of the call for some values, in this order."""

    def __init__(self, run: Run, values: Sequence[Value], decoder: Decoder) -> None:
        self._run = run
        self._values = values
        self._decoder = decoder
        self._total = 0
        self._done = 0
        self._shown = [0] * len(values)

    @contextmanager
    def over(self, pipeline: Any) -> Iterator[None]:
        """Within, the pipeline's bar is this one."""
        pipeline.progress_bar = self._bar
        try:
            yield
        finally:
            del pipeline.progress_bar

    def step_ended(self, pipeline: Any, index: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """As the library calls back."""
        self._look()
        total = getattr(pipeline, "_num_timesteps", None) or self._total
        rows = [row for row in range(len(self._values)) if self._due(row, done=index + 1, total=total)]
        if rows and (latents := tensors.get("latents")) is not None:
            self._show(rows, latents)
        return {}

    def _bar(self, iterable: Any = None, total: int | None = None) -> _Bar:
        self._look()
        self._total = len(iterable) if iterable is not None else total or 0
        self._done = 0
        return _Bar(self, iterable)

    def advance(self) -> None:
        """Another step is done."""
        self._done = min(self._done + 1, self._total)
        for row, value in enumerate(self._values):
            self._run.tell(row, Step(index=value.index, done=self._done, total=self._total))
        self._look()

    def _look(self) -> None:
        if not self._run.wanted:
            raise GivenUp

    def _due(self, row: int, *, done: int, total: int) -> bool:
        """Spread evenly, none at the end: there the picture itself comes."""
        wanted = self._values[row].previews
        if not self._decoder.able or not self._run.waits_for(row) or done >= total:
            return False
        return self._shown[row] < wanted and done >= total * (self._shown[row] + 1) / (wanted + 1)

    def _show(self, rows: list[int], latents: Any) -> None:
        for row, pixels in zip(rows, self._decoder.decode(latents, rows), strict=True):
            preview = Preview(index=self._values[row].index, number=self._shown[row], pixels=pixels)
            self._shown[row] += 1
            self._run.tell(row, preview)


class _Bar:
    """What pipelines want of a bar: to be entered, iterated or updated."""

    def __init__(self, watch: Watch, iterable: Any) -> None:
        self._watch = watch
        self._iterable = iterable

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self._watch.advance()

    def update(self, n: int = 1) -> None:
        for _ in range(int(n)):
            self._watch.advance()

    def set_postfix(self, *_: object, **__: object) -> None:
        return
