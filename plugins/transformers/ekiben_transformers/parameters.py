"""What of a request is honoured, and how it reads to the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from ekiben.contract import InvalidRequest
from ekiben.contract.text.parameters import OPENAI_SAMPLING, honoured
from ekiben.contract.text.schemas import check_schema
from ekiben_transformers import grammar
from ekiben_transformers.sampling import Sampling

ENGINE: Final = "transformers"
_EXTENSIONS: Final[Mapping[str, tuple[float, float]]] = {
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 10),
    "top_k": (0, 2**31),
}
"""The library's own, and the ranges they may have."""
_OTHERS: Final = frozenset({"ignore_eos", "structured_outputs"})
_PASSED: Final = OPENAI_SAMPLING | _EXTENSIONS.keys() | _OTHERS
_FORCED: Final = ("json", "regex", "choice", "grammar")
_MAX_GRAMMAR: Final = 64 * 1024
"""Characters of a regular expression or grammar."""


class Parameters:
    """Of one request, whichever the route."""

    def __init__(
        self, body: Mapping[str, Any], *, translated: Set[str], defaults: Mapping[str, Any], vocabulary: int
    ) -> None:
        """`defaults`: of the model's own generation config. Raises InvalidRequest, UnsupportedParameter."""
        self._given = honoured(body, engine=ENGINE, passed=_PASSED, translated=translated)
        for name, (lowest, highest) in _EXTENSIONS.items():
            _check_range(name, self._given.get(name), lowest, highest)
        self._defaults = defaults
        self._seed = body.get("seed")
        self._bias = _bias(self._given.get("logit_bias") or {}, vocabulary)
        stop = self._given.get("stop") or ()
        self.stops: Sequence[str] = (stop,) if isinstance(stop, str) else tuple(stop)
        self.ignores_ends = self._given.get("ignore_eos") is True

    def sampling(self, index: int) -> Sampling:
        """Of the answer with this index: the seeds of several are all different."""
        value = self._value
        return Sampling(
            temperature=float(value("temperature", 1.0)),
            top_p=float(value("top_p", 1.0)),
            top_k=int(value("top_k", 0)),
            min_p=float(value("min_p", 0.0)),
            presence_penalty=float(value("presence_penalty", 0.0)),
            frequency_penalty=float(value("frequency_penalty", 0.0)),
            repetition_penalty=float(value("repetition_penalty", 1.0)),
            logit_bias=self._bias,
            seed=None if self._seed is None else self._seed + index,
        )

    def forced(self) -> tuple[str, str] | None:
        """The grammar of the extension `structured_outputs`, and the name of the field it stands in."""
        asked = self._given.get("structured_outputs")
        if asked is None:
            return None
        param = "structured_outputs"
        if not isinstance(asked, Mapping) or len(asked) != 1 or not asked.keys() <= set(_FORCED):
            raise InvalidRequest(f"{param!r} is an object with one of {', '.join(_FORCED)}", param=param)
        ((kind, value),) = asked.items()
        return _source(kind, value, f"{param}.{kind}"), f"{param}.{kind}"

    def _value(self, name: str, otherwise: float) -> Any:
        return self._given.get(name, self._defaults.get(name, otherwise))


def format_grammar(response_format: Mapping[str, Any] | None) -> str | None:
    """Of `response_format`; None for a text. Raises InvalidRequest."""
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return grammar.of_schema({"type": "object"}, param="response_format")
    schema = response_format["json_schema"].get("schema")
    if schema is None:
        return grammar.of_schema({"type": "object"}, param="response_format")
    check_schema(schema, "response_format.json_schema.schema")
    return grammar.of_schema(schema, param="response_format.json_schema.schema")


def _source(kind: str, value: Any, param: str) -> str:
    if kind == "json":
        check_schema(value, param)
        return grammar.of_schema(value, param=param)
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
            raise InvalidRequest("'choice' is a list of texts", param=param)
        return grammar.of_choices(value)
    if not isinstance(value, str) or not value or len(value) > _MAX_GRAMMAR:
        raise InvalidRequest(f"{kind!r} is a text of at most {_MAX_GRAMMAR} characters", param=param)
    return grammar.of_regex(value) if kind == "regex" else grammar.of_lark(value)


def _bias(given: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    for token in given:
        if int(token) >= vocabulary:
            raise InvalidRequest(
                f"{token} is not a token: the model knows 0 to {vocabulary - 1}", param="logit_bias"
            )
    return {int(token): float(bias) for token, bias in given.items()}


def _check_range(name: str, value: Any, lowest: float, highest: float) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest:
        raise InvalidRequest(f"{name!r} must be a number from {lowest} to {highest:g}", param=name)
