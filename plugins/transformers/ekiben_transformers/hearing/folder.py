"""The folder of a model that hears, judged before a library opens it."""

from __future__ import annotations

from typing import Any, Final

from ekiben.contract import LoadFailed
from ekiben_transformers.folder import ModelFolder

ARCHITECTURE: Final = "WhisperForConditionalGeneration"
"""Whisper, and what was made of it: distilled, or taught another language."""


class HearingFolder(ModelFolder):
    def check(self) -> None:
        super().check()
        if not (self.path / "preprocessor_config.json").is_file():
            raise LoadFailed(
                f"the folder {self.path.name!r} lacks preprocessor_config.json, which says how sound is made "
                "ready: give the whole folder of the model"
            )

    def _check_architecture(self, config: dict[str, Any]) -> None:
        kinds = [str(kind) for kind in config.get("architectures") or []]
        if ARCHITECTURE not in kinds:
            what = kinds[0] if kinds else "the model"
            raise LoadFailed(f"{what} does not hear here: give the folder of a {ARCHITECTURE}")
