"""The engine diffusers without the platform: pipelines' folders loaded, batches computed as in a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ekiben.contract import (
    Ability,
    DrawRequest,
    Family,
    ModelSpec,
    Picture,
    Preview,
    SourceSpec,
    Step,
    Variant,
    testing,
)
from ekiben.plugins.discovery import parse_manifest
from ekiben_diffusers.engine import Diffusers

MANIFEST = Path(__file__).parents[1] / "plugins" / "diffusers" / "plugin.toml"


class News:
    """A `Run` of which nobody gives up, unless after so many steps."""

    def __init__(self, *, give_up_after: int | None = None, unwanted: Sequence[int] = ()) -> None:
        self.told: list[tuple[int, object]] = []
        self._give_up_after = give_up_after
        self._unwanted = unwanted

    @property
    def wanted(self) -> bool:
        return self._give_up_after is None or len(self.steps(0)) < self._give_up_after

    def waits_for(self, index: int) -> bool:
        return index not in self._unwanted

    def tell(self, index: int, news: object) -> None:
        self.told.append((index, news))

    def steps(self, row: int) -> list[int]:
        return [news.done for at, news in self.told if at == row and isinstance(news, Step)]

    def previews(self, row: int) -> list[Preview]:
        return [news for at, news in self.told if at == row and isinstance(news, Preview)]


def options(**changed: Any) -> dict[str, Any]:
    """The manifest's defaults under these."""
    section = parse_manifest(MANIFEST).engine
    assert section is not None
    return section.defaults() | changed


def load_request(
    folder: Path, scratch: Path, *, adapters: dict[str, Path] | None = None, **changed: Any
) -> Any:
    """Of a folder for one thread."""
    variant = Variant(
        format="diffusers",
        engine="diffusers",
        source=SourceSpec(kind="local", path=str(folder)),  # type: ignore[call-arg]
    )
    spec = ModelSpec(
        name="tiny",
        family=Family.VISION,
        abilities=frozenset({Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}),
        variants=(variant,),
    )
    request = testing.load_request(spec, folder, scratch=scratch, options=options(**changed), threads=1)
    return replace(request, adapters=adapters or {})


async def open_model(folder: Path, scratch: Path, **changed: Any) -> Any:
    """A loaded model, to be unloaded."""
    return await Diffusers().load(load_request(folder, scratch, **changed))


def draw(model: Any, *requests: DrawRequest, run: News | None = None) -> list[Picture]:
    """All items of the requests in one batch, as the runtime does it."""
    ability = Ability.EDIT_IMAGE if requests[0].images else Ability.GENERATE_IMAGE
    batching = model.batching[ability]
    items = [item for request in requests for item in batching.items(request)]
    assert len({item.group for item in items}) == 1
    prepared = batching.prepare([item.value for item in items])
    pictures: list[Picture] = batching.compute(prepared, run or News())
    return pictures


def seeded(*seeds: int) -> Any:
    """The generators that these seeds mean, as the library takes them."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return generators[0] if len(seeds) == 1 else generators
