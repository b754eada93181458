"""The items of a response's input: as they are kept, listed and sent on. Plain computation.

What is kept is what can be listed: every item has an id and is written out in full. Whether an item makes
sense is the replica's to say, so whatever is not understood here is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ekiben.errors import NotFound
from ekiben.gateway.pages import is_descending, page, read_limit
from ekiben.responses import item_id

_FIRST_NUMBER: Final = 0x8000
"""Of items of the input; those of the output are numbered from 0."""
_KINDS: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def as_items(given: Any) -> list[Any]:
    """The input of a request as a list; whatever it is otherwise is the replica's to refuse."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return list(given) if isinstance(given, list) else []


def is_reference(item: Any) -> bool:
    """Whether it only names an item that is kept."""
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
        return False
    return item.get("type") == "item_reference" or (item.get("type") is None and set(item) <= {"id", "type"})


def kept_items(items: Iterable[Any], response_id: str) -> list[dict[str, Any]]:
    """With ids, and with what clients may leave out."""
    kept = []
    for number, item in enumerate(items, start=_FIRST_NUMBER):
        if isinstance(item, Mapping):
            kept.append(_kept(item, response_id, number))
    return kept


def page_of(
    items: Sequence[Mapping[str, Any]], *, order: str | None, limit: str | None, after: str | None
) -> dict[str, Any]:
    """A page of the list, the newest first unless asked otherwise. Raises InvalidRequest and NotFound."""
    newest_first = is_descending(order)
    size = read_limit(limit)
    ordered = list(reversed(items)) if newest_first else list(items)
    start = 0
    if after is not None:
        ids = [item.get("id") for item in ordered]
        if after not in ids:
            raise NotFound(f"there is no item {after[:100]!r} in this response", param="after")
        start = ids.index(after) + 1
    return page(ordered[start : start + size], has_more=start + size < len(ordered))


def _kept(item: Mapping[str, Any], response_id: str, number: int) -> dict[str, Any]:
    kind = item.get("type") or "message"
    given = {name: value for name, value in item.items() if value is not None}
    value = {
        "id": item_id(_KINDS.get(str(kind), "item"), response_id, number),
        "type": kind,
        "status": "completed",
        **given,
    }
    if kind == "message":
        value["content"] = _content(given.get("content"), own=given.get("role") == "assistant")
    return value


def _content(content: Any, *, own: bool) -> Any:
    """`own`: of the model's messages, whose parts are of another kind."""
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        return content
    return [_part(part, own=own) if isinstance(part, Mapping) else part for part in content]


def _part(part: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    kind = part.get("type")
    if own and kind in ("input_text", "output_text"):
        return {"annotations": [], "logprobs": [], **part, "type": "output_text"}
    if kind == "input_image":
        return {"detail": "auto", **part}
    return dict(part)
