"""Chat templates in Jinja: compiled and rendered in a sandbox, within bounds of time and size.

A template comes with a model, from somebody who may mean ill or have erred. It reaches no attribute that
Python keeps to itself and changes nothing that it is given; each turn of a loop and each call looks at the
clock, and whatever makes long texts out of short ones looks at their length first. What templates of
Hugging Face count on is there: `raise_exception`, `strftime_now`, `tojson`, loop controls and
`{% generation %}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.errors import ConfigError, InvalidRequest

MAX_TEMPLATE_CHARACTERS: Final = 2**17
MAX_CHARACTERS: Final = 16 * 2**20
"""Of what is rendered, and of any text on the way there."""
MAX_RENDER_S: Final = 2.0
_MAX_POWER: Final = 64
_MESSAGE_CHARACTERS: Final = 300
_WIDTH: Final = re.compile(r"\d{5}")
"""In a format: nobody writes so wide a column."""
_LEFT_OUT: Final = frozenset(
    {"center", "filesizeformat", "format", "pprint", "random", "urlize", "wordwrap", "xmlattr"}
)
"""Filters of pages, not of prompts; some of them make long texts out of short ones."""
_WIDENING: Final = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})


class ChatTemplate:
    """One template, for one thread at a time. Blocks while it renders."""

    def __init__(self, source: str, *, max_s: float = MAX_RENDER_S, clock: Clock = SYSTEM_CLOCK) -> None:
        """Raises ConfigError, with the line, when `source` is no template."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ConfigError(f"the template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        self._environment = _Environment(clock)
        self._max_s = max_s
        try:
            self._template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"the template is wrong in line {error.lineno}: {error.message}") from None
        except (TemplateError, RecursionError, ValueError, SyntaxError) as error:
            raise ConfigError(f"the template cannot be compiled: {_short(error)}") from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """Raises InvalidRequest: the template refuses what it is given, fails, or goes beyond its bounds."""
        self._environment.begin(self._max_s)
        pieces, characters = [], 0
        try:
            for piece in self._template.generate(**variables):
                characters += len(piece)
                self._environment.hold(characters)
                pieces.append(piece)
        except OutOfBounds as error:
            raise InvalidRequest(f"the chat template was stopped: {error}", param="messages") from error
        except _Refused as error:
            reason = f"the chat template refuses this conversation: {_short(error)}"
            raise InvalidRequest(reason, param="messages") from None
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            reason = f"the chat template cannot be used on this conversation: {_short(error)}"
            raise InvalidRequest(reason, param="messages") from None
        return "".join(pieces)


class OutOfBounds(Exception):
    """It takes too long, or writes too much."""


class _Refused(Exception):
    """What `raise_exception` was called with."""


class _Generation(Extension):
    """`{% generation %}` marks what the model wrote, for training: here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way to say it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a watch."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, clock: Clock) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        self._clock = clock
        self._deadline = 0.0
        self.globals = {
            "raise_exception": _raise,
            "strftime_now": lambda format: self._clock.now().astimezone().strftime(format),
            "range": self.globals["range"],
            "dict": dict,
            "namespace": self.globals["namespace"],
        }
        kept: dict[str, Callable[..., Any]] = {
            name: function for name, function in self.filters.items() if name not in _LEFT_OUT
        }
        join, indent = kept["join"], kept["indent"]
        self.filters = kept | {
            "tojson": _to_json,
            "replace": lambda text, old, new, count=None: self._replaced(
                str(text), str(old), str(new), count
            ),
            "join": self._checked_join(join),
            "indent": lambda text, width=4, *rest: self._indented(indent, str(text), width, *rest),
        }

    def begin(self, max_s: float) -> None:
        """The clock runs."""
        self._deadline = self._clock.monotonic() + max_s

    def look(self) -> str:
        """At the clock. Raises OutOfBounds."""
        if self._clock.monotonic() > self._deadline:
            raise OutOfBounds("it takes too long")
        return ""

    def hold(self, characters: int) -> None:
        """So many are about to be made. Raises OutOfBounds."""
        if characters > MAX_CHARACTERS:
            raise OutOfBounds(f"it writes more than {MAX_CHARACTERS} characters")
        self.look()

    def joined(self, *parts: Any) -> str:
        """What `~` does."""
        texts = [str(part) for part in parts]
        self.hold(sum(map(len, texts)))
        return "".join(texts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Each call in a template comes through here; named as jinja names them."""
        __self.look()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            __self._check_method(owner, name, args)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, (str, list, tuple)):
            self.hold(len(left) + (len(right) if isinstance(right, (str, list, tuple)) else 0))
        elif operator == "*":
            self.hold(_product(left, right))
        elif operator == "**" and abs(right) > _MAX_POWER:
            raise SecurityError(f"the power {right} is too high")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """With a look at the clock in each turn of a loop and each call of a macro, and `~` as a call."""
        tree = super()._parse(source, name, filename)
        turns: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro)]
        for turn in turns:
            look = nodes.Call(nodes.EnvironmentAttribute("look"), [], [], None, None)
            turn.body.insert(0, nodes.Output([look]))
        _Joins().visit(tree)
        return tree.set_environment(self)  # type: ignore[return-value]

    def _check_method(self, owner: str, name: str, args: tuple[Any, ...]) -> None:
        if name == "replace" and len(args) >= 2:
            self.hold(_replaced_characters(owner, str(args[0]), str(args[1])))
        elif name == "join" and args and isinstance(args[0], (list, tuple)):
            self.hold(sum(len(str(item)) + len(owner) for item in args[0]))
        elif name in _WIDENING:
            self.hold(len(owner) * max([1, *(arg for arg in args if name == "expandtabs")]))
            self.hold(max([0, *(arg for arg in args if isinstance(arg, int))]))
        elif name in ("format", "format_map"):
            _check_format(owner)

    def _replaced(self, text: str, old: str, new: str, count: int | None) -> str:
        self.hold(_replaced_characters(text, old, new))
        return text.replace(old, new, -1 if count is None else count)

    def _checked_join(self, join: Any) -> Any:
        def checked(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
            items = list(value)
            self.hold(sum(len(item) for item in items if isinstance(item, str)) + len(d) * len(items))
            return join(context, items, d, attribute)

        checked.jinja_pass_arg = join.jinja_pass_arg  # type: ignore[attr-defined]
        return checked

    def _indented(self, indent: Any, text: str, width: Any, *rest: Any) -> Any:
        each = width if isinstance(width, int) else len(str(width))
        self.hold(len(text) + (text.count("\n") + 1) * max(0, each))
        return indent(text, width, *rest)


class _Joins(NodeTransformer):
    """Replaces each `a ~ b` by a call."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        joined = nodes.EnvironmentAttribute("joined")
        return nodes.Call(joined, node.nodes, [], None, None, lineno=node.lineno)


def _raise(message: object) -> NoReturn:
    raise _Refused(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > 16:
        raise SecurityError(f"an indent of {indent} is too wide")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _product(left: Any, right: Any) -> int:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, list, tuple)) and isinstance(times, int):
            return len(many) * max(0, times)
    return 0


def _replaced_characters(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * len(new)


def _check_format(text: str) -> None:
    if "*" in text or _WIDTH.search(text):
        raise SecurityError("the format is too wide")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_MESSAGE_CHARACTERS] or type(error).__name__
