"""Pages of lists, as OpenAI has them: what is asked for, and how it is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ekiben.errors import InvalidRequest

PAGE: Final = 20
MAX_PAGE: Final = 100


def read_limit(limit: str | None, *, default: int = PAGE, most: int = MAX_PAGE) -> int:
    """How many items are wanted. Raises InvalidRequest."""
    if limit is None:
        return default
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise InvalidRequest(f"'limit' must be from 1 to {most}", param="limit")
    return int(limit)


def is_descending(order: str | None) -> bool:
    """Whether the newest come first, as they do unless it is asked otherwise. Raises InvalidRequest."""
    if order not in (None, "asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    return order != "asc"


def page(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The answer."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else "",
        "last_id": items[-1]["id"] if items else "",
        "has_more": has_more,
    }
