"""Texts in Prometheus's format joined into one: each family once, each sample with labels of its origin.

Values are passed on as they are written. Does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_SAMPLES: Final = 2_000
"""Of one text; what is beyond is left out."""
_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_COMMENT: Final = re.compile(rf"# (?P<kind>HELP|TYPE) (?P<name>{_NAME}) (?P<text>.+)")
_SAMPLE: Final = re.compile(rf"(?P<name>{_NAME})(?:\{{(?P<labels>.*)\}})? (?P<value>[^\s{{}}]+)(?: -?\d+)?")
_PAIR: Final = re.compile(r'(\w+)(="(?:[^"\\]|\\.)*")')
_OF_TYPE: Final = re.compile(rf"^# TYPE ({_NAME}) ", re.MULTILINE)
_UNTYPED: Final = "untyped"
_ENDINGS: Final = frozenset({"", "_bucket", "_count", "_sum"})
"""What a sample's name has after its family's."""


@dataclass(slots=True)
class _Family:
    name: str
    kind: str = _UNTYPED
    help: str = ""
    samples: list[str] = field(default_factory=list)

    def text(self) -> str:
        head = [f"# HELP {self.name} {self.help}"] if self.help else []
        return "\n".join([*head, f"# TYPE {self.name} {self.kind}", *self.samples, ""])

    def has(self, sample: str) -> bool:
        return sample.startswith(self.name) and sample[len(self.name) :] in _ENDINGS


class Exposition:
    """A text made of several."""

    def __init__(self, first: bytes) -> None:
        """`first` comes first, as it is; nobody else's families may have its names."""
        self._first = first
        self._taken = frozenset(_OF_TYPE.findall(first.decode()))
        self._families: dict[str, _Family] = {}

    def add(self, text: str, labels: Mapping[str, str]) -> None:
        """A sample's own label by one of these names is called `exported_…` from then on.

        Whoever is first to bring a family says of which type it is; others of its name are left out.
        """
        for family in _read(text, _Labels(labels)):
            if family.name in self._taken or not family.samples:
                continue
            known = self._families.setdefault(family.name, family)
            if known is not family and known.kind == family.kind:
                known.samples += family.samples

    def render(self) -> bytes:
        return self._first + "".join(family.text() for family in self._families.values()).encode()


class _Labels:
    """What is put before the labels that a sample has."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._names = frozenset(labels)
        self._text = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())

    def on(self, sample: re.Match[str]) -> str:
        own = _PAIR.sub(self._rename, sample["labels"] or "").strip(",")
        return f"{sample['name']}{{{self._text}{',' if own else ''}{own}}} {sample['value']}"

    def _rename(self, pair: re.Match[str]) -> str:
        name, value = pair.groups()
        return f"exported_{name}{value}" if name in self._names else f"{name}{value}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _read(text: str, labels: _Labels) -> Iterable[_Family]:
    """Lines that are not of the format are left out."""
    families: dict[str, _Family] = {}
    family: _Family | None = None
    left = MAX_SAMPLES
    for line in text.split("\n"):
        if comment := _COMMENT.fullmatch(line):
            family = families.setdefault(comment["name"], _Family(comment["name"]))
            if comment["kind"] == "HELP":
                family.help = comment["text"]
            else:
                family.kind = comment["text"]
        elif left and (sample := _SAMPLE.fullmatch(line)):
            left -= 1
            name = sample["name"]
            if family is None or not family.has(name):
                family = families.setdefault(name, _Family(name))
            family.samples.append(labels.on(sample))
    return families.values()
