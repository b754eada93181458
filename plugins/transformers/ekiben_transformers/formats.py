"""How a model marks what is not meant for the reader: its thoughts, and its calls of tools.

Found from its chat template. Texts are read as they come: what may be the beginning of a mark is held back.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

THINK_BEGIN: Final = "<think>"
THINK_END: Final = "</think>"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A call is JSON between marks; an empty end is the end of the answer."""

    begin: str
    end: str


HERMES: Final = CallFormat("<tool_call>", "</tool_call>")
MISTRAL: Final = CallFormat("[TOOL_CALLS]", "")
LLAMA: Final = CallFormat("<|python_tag|>", "")
_FORMATS: Final = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA}


def call_format(template: str, named: str | None = None) -> CallFormat:
    """Of a model with this template, unless the spec names another one."""
    if named is not None:
        return _FORMATS[named]
    if MISTRAL.begin in template:
        return MISTRAL
    return LLAMA if LLAMA.begin in template and HERMES.begin not in template else HERMES


def thinks(template: str) -> bool:
    """Whether the model writes its thoughts first."""
    return THINK_END in template


@dataclass(frozen=True, slots=True)
class Part:
    """Of an answer: some text, some thoughts, or a whole call."""

    text: str = ""
    reasoning: str = ""
    call: dict[str, Any] | None = None


class PartReader:
    """Reads one answer. `thinking`: it begins in the middle of thoughts, which the prompt opened."""

    def __init__(self, calls: CallFormat | None, *, reasons: bool, thinking: bool) -> None:
        self._calls = calls
        self._reasons = reasons
        self._end = THINK_END if thinking else None
        self._held = ""
        self._begun = False
        self._trims = reasons
        """Whether white space that comes next stands around thoughts, and is nobody's text."""
        self.called = 0

    def feed(self, text: str) -> Iterator[Part]:
        """What is known now."""
        self._held += text
        yield from self._read(last=False)

    def finish(self) -> Iterator[Part]:
        """What was held back."""
        yield from self._read(last=True)

    def _read(self, *, last: bool) -> Iterator[Part]:
        while self._held:
            if self._end is None:
                found = self._first_mark()
                if found is None:
                    yield from self._tell(len(self._held) - (0 if last else self._suspect(self._marks())))
                    return
                at, mark = found
                yield from self._tell(at)
                self._held = self._held[len(mark) :]
                self._end = self._end_of(mark)
            elif not (yield from self._read_marked(last=last)):
                return

    def _read_marked(self, *, last: bool) -> Generator[Part, None, bool]:
        """What stands between marks. Returns whether the end was reached."""
        end = self._end or ""
        at = self._held.find(end) if end else -1
        if end == THINK_END:
            known = at if at >= 0 else len(self._held) - (0 if last else self._suspect([end]))
            if thought := self._held[:known]:
                yield Part(reasoning=thought)
            self._held = self._held[known:]
        if at < 0:
            if last and end != THINK_END:
                yield from self._tell_calls(self._held, whole=self._calls)
                self._held = ""
            return False
        if end != THINK_END:
            yield from self._tell_calls(self._held[:at], whole=self._calls)
            self._held = self._held[at:]
        self._held = self._held[len(end) :]
        self._end = None
        self._trims = self._trims or end == THINK_END
        return True

    def _tell(self, end: int) -> Iterator[Part]:
        text, self._held = self._held[:end], self._held[end:]
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        if self.called and not text.strip():
            return  # white space between calls
        if text:
            self._begun = True
            yield Part(text=text)

    def _tell_calls(self, text: str, *, whole: CallFormat | None) -> Iterator[Part]:
        """The calls that the text is, or the text itself when it is none."""
        calls = parse_calls(text)
        if not calls and whole is not None:
            yield Part(text=f"{whole.begin}{text}")
        for call in calls:
            self.called += 1
            yield Part(call=call)

    def _marks(self) -> list[str]:
        marks = [self._calls.begin] if self._calls is not None else []
        return [*marks, THINK_BEGIN] if self._reasons and not self._begun else marks

    def _end_of(self, mark: str) -> str:
        return THINK_END if mark == THINK_BEGIN else self._calls.end if self._calls is not None else ""

    def _first_mark(self) -> tuple[int, str] | None:
        found = [(at, mark) for mark in self._marks() if (at := self._held.find(mark)) >= 0]
        # A mark of thoughts in the middle of a text is part of the text.
        return min(
            (item for item in found if item[1] != THINK_BEGIN or not self._held[: item[0]].strip()),
            default=None,
        )

    def _suspect(self, marks: Sequence[str]) -> int:
        """How long the end of the text is that may be the beginning of a mark."""
        held = self._held
        lengths = [
            n for mark in marks for n in range(1, min(len(mark), len(held) + 1)) if held.endswith(mark[:n])
        ]
        return max(lengths, default=0)


def parse_calls(text: str) -> list[dict[str, Any]]:
    """Calls in OpenAI's shape; none when the text is not JSON of calls."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    entries = value if isinstance(value, list) else [value]
    calls = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            return []
        arguments = entry.get("arguments", entry.get("parameters", {}))
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(
            {
                "id": f"call_{uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": entry["name"], "arguments": written},
            }
        )
    return calls
