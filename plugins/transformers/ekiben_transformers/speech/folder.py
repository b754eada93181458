"""The folder of a model that speaks, judged before a library opens it."""

from __future__ import annotations

import importlib.util
from typing import Any, Final

from ekiben.contract import LoadFailed
from ekiben_transformers.folder import ModelFolder

ARCHITECTURE: Final = "VitsModel"
"""Text to waveform in one go: the voices of VITS and of MMS, in more than a thousand languages."""


class SpeakingFolder(ModelFolder):
    def check(self) -> None:
        super().check()
        if self.json("tokenizer_config.json").get("phonemize") and not _installed("phonemizer"):
            raise LoadFailed(
                f"the model {self.path.name!r} reads phonemes, for which the package phonemizer is needed: "
                "pip install phonemizer"
            )

    @property
    def speakers(self) -> int:
        return max(1, int(self.json("config.json").get("num_speakers") or 1))

    def _check_architecture(self, config: dict[str, Any]) -> None:
        kinds = [str(kind) for kind in config.get("architectures") or []]
        if ARCHITECTURE not in kinds:
            what = kinds[0] if kinds else "the model"
            raise LoadFailed(f"{what} does not speak here: give the folder of a {ARCHITECTURE}")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
