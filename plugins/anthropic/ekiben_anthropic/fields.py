"""An object of a request, read field by field; what nobody has read is refused by name at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter

_MAX_SHOWN: Final = 64


class Fields:
    """`where`: the path of the object in the request, empty for the request itself.

    Null is the same as not given. Every method raises InvalidRequest with the field's path in `param`.
    """

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{where!r} must be an object", param=where)
        self._given: Mapping[str, Any] = value
        self._unread = {name for name, given in value.items() if given is not None}
        self.where = where

    def path(self, name: str) -> str:
        """Of a field in the request."""
        return f"{self.where}.{name}" if self.where else name

    def wrong(self, name: str, reason: str) -> InvalidRequest:
        """The error for a field that is not as it must be."""
        path = self.path(name)
        return InvalidRequest(f"{path!r} {reason}", param=path)

    def value(self, name: str) -> Any:
        """Whatever it is."""
        self._unread.discard(name)
        return self._given.get(name)

    def required(self, name: str) -> Any:
        """Whatever it is, but not null."""
        if (value := self.value(name)) is None:
            raise self.wrong(name, "is required")
        return value

    def text(self, name: str) -> str | None:
        value = self.value(name)
        if not isinstance(value, str | None):
            raise self.wrong(name, "must be a string")
        return value

    def required_text(self, name: str) -> str:
        value = self.required(name)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.value(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, "must be a boolean")
        return value

    def whole(self, name: str, *, lowest: int) -> int | None:
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise self.wrong(name, f"must be a whole number from {lowest}")
        return value

    def number(self, name: str, *, highest: float) -> float | None:
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= highest:
            raise self.wrong(name, f"must be a number from 0 to {highest:g}")
        return value

    def choice(self, name: str, *choices: str) -> str:
        value = self.required(name)
        if value not in choices:
            raise self.wrong(name, f"must be one of {', '.join(choices)}")
        return str(value)

    def inner(self, name: str) -> Fields | None:
        value = self.value(name)
        return None if value is None else Fields(value, self.path(name))

    def objects(self, name: str) -> list[Fields]:
        """The entries of a list; an absent one is empty."""
        return [Fields(value, f"{self.path(name)}.{index}") for index, value in enumerate(self.items(name))]

    def items(self, name: str) -> list[Any]:
        value = self.value(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "must be a list")
        return value or []

    def needless(self, *names: str) -> None:
        """Fields that ask for nothing that is not done anyway."""
        for name in names:
            self._unread.discard(name)

    def neutral(self, name: str, *values: object) -> None:
        """A field that may be given with these values, which ask for nothing."""
        if self._given.get(name) in values:
            self._unread.discard(name)

    def finish(self) -> None:
        """Raises UnsupportedParameter for the first field that nobody has read."""
        for name in self._given:
            if name in self._unread:
                path = self.path(name[:_MAX_SHOWN])
                raise UnsupportedParameter(f"{path!r} cannot be honoured here: leave it out", param=path)
