"""A loaded pipeline, as the runtime sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ekiben.contract import Ability, Batching
from ekiben_diffusers.drawing import Drawing
from ekiben_diffusers.ensemble import Kind


class PictureModel:
    """LoadedModel. One `Batching` serves both abilities, since both compute with the same parts."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        kinds = drawing.ensemble.kinds
        self._batching: dict[Ability, Batching[Any, Any, Any, Any]] = {}
        if Kind.TEXT in kinds:
            self._batching[Ability.GENERATE_IMAGE] = drawing
        if kinds & {Kind.PICTURE, Kind.MASK}:
            self._batching[Ability.EDIT_IMAGE] = drawing

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        return self._batching

    async def unload(self) -> None:
        await asyncio.to_thread(self._drawing.close)
