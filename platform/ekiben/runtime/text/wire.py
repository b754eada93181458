"""Whether a request body is what OpenAI's own types say: the check in front of the text engines.

The types of the installed `openai` package are the reference, so the surface follows upstream. They are
made for callers, not for servers: `Iterable` fields would be accepted unread, and unions would report
the errors of every branch. So they are rebuilt first: iterables become lists, and unions of objects
that say what they are by `role` or `type` are told apart by that.

Knows nothing of models and engines: what an engine can do with a valid request is its own affair.
"""

from __future__ import annotations

import asyncio
import collections.abc
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import typing_extensions
from pydantic import ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError

from ekiben.errors import InvalidRequest

MAX_DEPTH: Final = 128
"""Far more than JSON schemas need."""

_LISTS: Final = (collections.abc.Iterable, collections.abc.Sequence, list)
_DISCRIMINATORS: Final = ("role", "type")
_UNTAGGED: Final = ("union_tag_not_found", "union_tag_invalid")
_ABSENT: Final = ("missing", "union_tag_not_found")
_NOUNS: Final = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "a boolean",
    "list_type": "a list",
    "dict_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
"""What pydantic's kinds of errors ask for."""

_LENIENT: Final[Mapping[str, frozenset[str]]] = {
    "FunctionToolParam": frozenset({"parameters", "strict"}),
    "ResponseInputImageParam": frozenset({"detail"}),
    "ResponseOutputMessageParam": frozenset({"id", "status"}),
    "ResponseOutputTextParam": frozenset({"annotations"}),
    "ResponseReasoningItemParam": frozenset({"id"}),
}
"""What the types demand, and the published examples leave out."""

_make_typed_dict: Any = typing_extensions.TypedDict


class Surface(StrEnum):
    """A route whose body is checked here."""

    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSES = "responses"


def validate(surface: Surface, body: dict[str, Any]) -> None:
    """Raises InvalidRequest with the field in `param`. Fields that the types do not know are let pass.

    Blocks for about a second when it is the first call and `warm` was not called.
    """
    if not isinstance(body.get("stream"), bool | None):
        raise InvalidRequest("'stream' must be a boolean", param="stream")
    # Clients write null for what they do not want to set, also where the types forbid it.
    given = {name: value for name, value in body.items() if value is not None}
    try:
        _adapter(surface, streamed=body.get("stream") is True).validate_python(given, strict=True)
    except ValidationError as error:
        raise _report(error, given) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    _walk(body)


def warm() -> None:
    """Import the types and build the validators. Blocking, idempotent, safe on any thread."""
    for surface in Surface:
        for streamed in (False, True):
            _adapter(surface, streamed=streamed)


async def ready() -> None:
    """`warm`, without blocking the event loop."""
    if _adapter.cache_info().currsize < 2 * len(Surface):
        await asyncio.to_thread(warm)


@cache
def _adapter(surface: Surface, *, streamed: bool) -> TypeAdapter[Any]:
    """One adapter for the streamed body and one for the whole: their union would report errors twice."""
    # The package takes the better part of a second to import, which only replicas of text models need.
    if surface is Surface.RESPONSES:  # the same whether streamed or not, and the largest by far
        from openai.types.responses.response_create_params import ResponseCreateParamsBase

        return _adapter(surface, streamed=False) if streamed else _adapted(ResponseCreateParamsBase)
    if surface is Surface.CHAT:
        from openai.types.chat import completion_create_params as params
    else:
        from openai.types import completion_create_params as params  # type: ignore[no-redef]
    wanted = params.CompletionCreateParamsStreaming if streamed else params.CompletionCreateParamsNonStreaming
    return _adapted(wanted)


def _adapted(wanted: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_Rebuilt().type_of(wanted))


class _Rebuilt:
    """The types of callers as the types of a server."""

    def __init__(self) -> None:
        self._objects: dict[Any, Any] = {}

    def type_of(self, hint: Any) -> Any:
        if typing_extensions.is_typeddict(hint):
            return self._object(hint)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            return self._union(arguments)
        if origin in _LISTS:
            return list[self.type_of(arguments[0])]  # type: ignore[misc]
        if origin is dict:
            return dict[arguments[0], self.type_of(arguments[1])]  # type: ignore[misc,valid-type]
        if origin is Annotated and not any(isinstance(note, Discriminator) for note in arguments):
            return self.type_of(arguments[0])
        return hint

    def _object(self, hint: Any) -> Any:
        if hint not in self._objects:
            fields = get_type_hints(hint, include_extras=True)
            needless = _LENIENT.get(hint.__name__, frozenset())
            made = _make_typed_dict(
                hint.__name__,
                {
                    name: self.type_of(_bare(field))
                    if name in needless
                    else self._field(field, name in hint.__required_keys__)
                    for name, field in fields.items()
                },
                total=False,
            )
            made.__pydantic_config__ = ConfigDict(extra="allow")
            self._objects[hint] = made
        return self._objects[hint]

    def _field(self, hint: Any, required: bool) -> Any:
        # `__required_keys__` cannot see a `Required` in annotations that are kept as text.
        rebuilt = self.type_of(_bare(hint))
        required = get_origin(hint) is typing_extensions.Required or (
            required and get_origin(hint) is not typing_extensions.NotRequired
        )
        return typing_extensions.Required[rebuilt] if required else rebuilt

    def _union(self, members: Iterable[Any]) -> Any:
        flat = [*_flattened(members)]
        if any(getattr(member, "__name__", "") == "ResponseInputImageParam" for member in flat):
            from openai.types.responses import ResponseInputAudioParam

            flat.append(ResponseInputAudioParam)  # the package has it, and lists it nowhere
        if str in flat:  # known names of models, say: they would only make the errors longer
            flat = [member for member in flat if get_origin(member) is not Literal]
        objects = [member for member in flat if typing_extensions.is_typeddict(member)]
        others = [member for member in flat if member not in objects]
        key = _discriminator(objects)
        if key is None:
            return self._either([*others, *self._grouped(objects)])
        tagged: Any = Annotated[self._either(objects), Discriminator(key)]
        return self._either([*others, tagged]) if others else tagged

    def _grouped(self, objects: list[Any]) -> list[Any]:
        """Objects of which several have the same `type`, or may leave it out, as unions of each kind."""
        groups: dict[str, list[Any]] = {}
        for member in objects:
            for value in _kinds(member):
                groups.setdefault(value, []).append(member)
        if len(groups) < 2 or not all(map(_kinds, objects)):
            return objects
        kinds = [Annotated[self._either(members), Tag(value)] for value, members in groups.items()]
        return [Annotated[Union[tuple(kinds)], Discriminator(_kind_of_item)]]  # noqa: UP007

    def _either(self, members: Iterable[Any]) -> Any:
        return Union[tuple(self.type_of(member) for member in members)]  # noqa: UP007


def _kinds(hint: Any) -> set[Any]:
    """The values of `type`, also where it may be null."""
    members = _flattened([_bare(get_type_hints(hint, include_extras=True).get("type", NoneType))])
    return {value for member in members if get_origin(member) is Literal for value in get_args(member)}


def _kind_of_item(value: Any) -> str | None:
    """The `type` of an input item, which messages and references may leave out."""
    if not isinstance(value, Mapping):
        return None
    kind = value.get("type")
    if kind is None:
        return "item_reference" if value.keys() <= {"id", "type"} else "message"
    return kind if isinstance(kind, str) else None


def _bare(hint: Any) -> Any:
    """A field's type without its `Required`."""
    if get_origin(hint) in (typing_extensions.Required, typing_extensions.NotRequired):
        return get_args(hint)[0]
    return hint


def _flattened(members: Iterable[Any]) -> Iterable[Any]:
    for member in members:
        if get_origin(member) in (Union, UnionType):
            yield from _flattened(get_args(member))
        else:
            yield member


def _discriminator(objects: list[Any]) -> str | None:
    """The field by whose literal values the objects can be told apart."""
    if len(objects) < 2:
        return None
    for key in _DISCRIMINATORS:
        values = [_literals(member, key) for member in objects]
        if all(values) and len(set().union(*values)) == sum(map(len, values)):
            return key
    return None


def _literals(hint: Any, key: str) -> set[Any]:
    field = _bare(get_type_hints(hint, include_extras=True).get(key, NoneType))
    return set(get_args(field)) if get_origin(field) is Literal else set()


def _report(error: ValidationError, body: Mapping[str, Any]) -> InvalidRequest:
    """The error that says most: of the first wrong field, the one that lies deepest."""
    located = [(_path(details, body), details) for details in error.errors(include_url=False)]
    first = located[0][0][:1]
    path = max((path for path, _ in located if path[:1] == first), key=len)
    details = [details for found, details in located if found == path]
    param = ".".join(map(str, path))
    if details[0]["type"] in _ABSENT:
        return InvalidRequest(f"{param!r} is required", param=param)
    wanted = " or ".join(dict.fromkeys(map(_reason, details)))
    return InvalidRequest(f"{param!r} must be {wanted}", param=param)


def _path(details: Any, body: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Where the error lies in the body; pydantic's location also names the branches of unions."""
    path: list[int | str] = []
    place: Any = body
    for step in details["loc"]:
        try:
            place = place[step]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(step)
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    elif details["type"] in _UNTAGGED:
        key = details["ctx"]["discriminator"].strip("'")
        path.append(key if key in _DISCRIMINATORS else "type")
    return tuple(path)


def _reason(details: Any) -> str:
    """What the field must be, as the end of a sentence that begins with its name."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "union_tag_invalid":
        return f"one of {context['expected_tags']}"
    if kind == "literal_error":
        return str(context["expected"])
    message = details["msg"].removeprefix("Input should be ")
    return _NOUNS.get(kind, f"{message[:1].lower()}{message[1:]}")


def _walk(value: Any, path: tuple[str, ...] = ()) -> None:
    """Refuse what no type forbids: endless nesting, and half surrogate pairs.

    The latter can be written in JSON and in nothing else: engines would choke on them.
    """
    if len(path) > MAX_DEPTH:
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels", param=path[0])
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            where = ".".join(path)
            raise InvalidRequest("the text holds half a surrogate pair", param=where or None) from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _walk(key, path)
            _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str | dict | list):  # prompts can be long lists of tokens
                _walk(item, (*path, str(index)))
