"""EfficientNets as EfficientNet-PyTorch names their tensors, by the names that timm has for them.

Knows names only: `conversion` holds the shapes of what comes out against those of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_MARK: Final = "_conv_stem.weight"
_AROUND: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_ALWAYS: Final = {
    "_depthwise_conv": "conv_dw",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}
_PLAIN: Final = _ALWAYS | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING: Final = _ALWAYS | {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def renamed(names: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The library's name of each; the same where it is none of EfficientNet-PyTorch's.

    `wanted`: the library's names, in order. There blocks are counted by stages, here from the first one on.
    """
    names = list(names)
    if _MARK not in names:
        return {name: name for name in names}
    places = list(dict.fromkeys(tuple(name.split(".")[1:3]) for name in wanted if name.startswith("blocks.")))
    expanding = {name.split(".")[1] for name in names if name.endswith("._expand_conv.weight")}
    return {name: _renamed(name, places, expanding) for name in names}


def _renamed(name: str, places: list[tuple[str, ...]], expanding: set[str]) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_AROUND.get(parts[0], parts[0]), *parts[1:]])
    if len(parts) < 4 or not parts[1].isdecimal() or int(parts[1]) >= len(places):
        return name
    layers = _EXPANDING if parts[1] in expanding else _PLAIN
    return ".".join(["blocks", *places[int(parts[1])], layers.get(parts[2], parts[2]), *parts[3:]])
