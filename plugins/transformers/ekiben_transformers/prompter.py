"""From what a client sends to what the model reads: templates, tokens, bounds.

Blocking; for the thread that prepares requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ekiben.contract import InvalidRequest
from ekiben_transformers.answer import Ask, Writer
from ekiben_transformers.conversation import plain_messages
from ekiben_transformers.formats import THINK_BEGIN, CallFormat
from ekiben_transformers.grammar import Grammars
from ekiben_transformers.template import ChatTemplate
from ekiben_transformers.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Prompter:
    """What a request needs to know of the model."""

    vocabulary: Vocabulary
    grammars: Grammars
    template: ChatTemplate | None
    """None: the model brings none and the spec gives none, so there are no chats."""
    calls: CallFormat
    reasons: bool
    """Whether the model writes its thoughts first."""
    ends: frozenset[int]
    defaults: Mapping[str, Any]
    context: int
    """Tokens of one request, prompt and answer together."""

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Raises InvalidRequest where the model has no template, or its own refuses the messages."""
        if self.template is None:
            raise InvalidRequest(
                "this model has no chat template: use completions, or give its spec the option chat_template",
                param="messages",
            )
        return self.template.render(
            plain_messages(messages),
            tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )

    def encode(self, text: str, *, special: bool) -> list[int]:
        return self.vocabulary.encode(text, special=special)

    def room(self, prompt: Sequence[int], wanted: int | None, *, param: str, default: int | None) -> int:
        """How many tokens may be written after a prompt. Raises InvalidRequest when it does not fit."""
        left = self.context - len(prompt)
        if left < 1 or (wanted is not None and wanted > left):
            asked = f" and {wanted} to be written" if wanted is not None else ""
            raise InvalidRequest(
                f"the context of this model is {self.context} tokens, and there are {len(prompt)} in the "
                f"prompt{asked}: send less",
                param=param,
                code="context_length_exceeded",
            )
        return min(left, wanted or default or left)

    def writers(self, asks: Sequence[Ask], forced: tuple[str, str] | None) -> list[Writer]:
        """`forced`: the grammar of each answer, and the field that asks for it."""
        return [
            Writer(
                ask,
                self.vocabulary,
                None if forced is None else self.grammars.compile(forced[0], param=forced[1]),
            )
            for ask in asks
        ]


def opens_thoughts(prompt: str) -> bool:
    """Whether the template ends with the mark at which thoughts begin."""
    return prompt.rstrip().endswith(THINK_BEGIN)
