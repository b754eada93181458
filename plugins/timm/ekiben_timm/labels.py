"""What the classes of a model are called: as its config says, or ImageNet's names, which timm ships."""

from __future__ import annotations

from typing import Final

from ekiben_timm.library import data_folder
from ekiben_timm.weights import Weights

_SYNSETS: Final = {
    1000: "imagenet_synsets.txt",
    11221: "imagenet21k_miil_synsets.txt",
    11821: "imagenet12k_synsets.txt",
    21841: "imagenet22k_synsets.txt",
    21842: "imagenet22k_ms_synsets.txt",
    21843: "imagenet21k_goog_synsets.txt",
}
"""Told by their number, as the library does."""
_WORDS: Final = "imagenet_synset_to_lemma.txt"


def class_names(weights: Weights, classes: int) -> list[str]:
    if weights.names:
        return list(weights.names)
    if classes not in _SYNSETS:
        return [str(number) for number in range(classes)]
    folder = data_folder() / "_info"
    synsets = (folder / _SYNSETS[classes]).read_text(encoding="utf-8").splitlines()
    rows = (folder / _WORDS).read_text(encoding="utf-8").splitlines()
    words = dict(row.split("\t", 1) for row in rows if row)
    return [words.get(synset, synset) for synset in synsets]
