"""What a model likes to have before its texts, by what they are."""

from __future__ import annotations

from typing import Any, Final

from ekiben.contract import EmbedRequest, InvalidRequest

NAMES: Final = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Under which a model's config may have the prompt of an input type."""


class Prompts:
    def __init__(self, model: Any) -> None:
        self._prompts: dict[str, str | None] = dict(model.prompts)
        self._default = self._prompts.get(model.default_prompt_name or "") or ""

    def of(self, request: EmbedRequest) -> str:
        """Empty, where there is none. Raises InvalidRequest for a name that the model does not have."""
        if (name := request.prompt_name) is not None:
            if name not in self._prompts:
                known = ", ".join(sorted(self._prompts)) or "none"
                raise InvalidRequest(
                    f"this model has no prompt {name[:64]!r} (known: {known})", param="prompt_name"
                )
            return self._prompts[name] or ""
        for name in NAMES.get(request.input_type or "", ()):
            if prompt := self._prompts.get(name):
                return prompt
        return self._default
