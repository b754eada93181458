"""timm, imported without torchvision.

The definitions of timm's models ask torchvision for one layer, and timm's `data` for some constants. The rest
of `data`, transforms and data sets, is what torchvision is for, and nobody needs it to classify a picture.
While timm is imported, something stands in the place of both. So any torch will do: a torchvision that was
built for another one cannot be imported at all.

Imported in the process from which replicas are forked: nothing here starts a thread or touches a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from ekiben.contract import LoadFailed


class FrozenBatchNorm2d(torch.nn.Module):
    """The layer that timm asks torchvision for: detectors have it, and no classifier does."""

    def __init__(self, *_: object, **__: object) -> None:
        raise LoadFailed(
            "the model has layers of torchvision (FrozenBatchNorm2d), which this engine does not load"
        )


def data_folder() -> Path:
    """Where timm keeps its data files."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise LoadFailed("timm is not installed: run `ekiben engine install timm`")
    return Path(spec.submodule_search_locations[0]) / "data"


@contextmanager
def _standing_in() -> Iterator[None]:
    """Nobody else finds what stands in: it is gone when timm is there."""
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc", "timm.data")
    ours = {name: _package(name) for name in names if name not in sys.modules}
    if "torchvision.ops.misc" in ours:
        vars(ours["torchvision.ops.misc"])["FrozenBatchNorm2d"] = FrozenBatchNorm2d
    sys.modules.update(ours)
    try:
        if "timm.data" in ours:
            ours["timm.data"].__path__ = [str(data_folder())]
            constants = vars(import_module("timm.data.constants"))
            vars(ours["timm.data"]).update({name: constants[name] for name in constants if name.isupper()})
        yield
    finally:
        for name in (*ours, "timm.data.constants"):
            sys.modules.pop(name, None)


def _package(name: str) -> ModuleType:
    made = ModuleType(name)
    made.__path__ = []
    made.__spec__ = ModuleSpec(name, None, is_package=True)
    return made


with _standing_in():
    import timm

__all__ = ["data_folder", "timm", "torch"]
