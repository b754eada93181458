"""Chat templates in the sandbox: what they may count on, and what stops them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract.model import ModelSpec
from ekiben.contract.text.templates import MAX_TEMPLATE_CHARACTERS, ChatTemplate
from ekiben.errors import ConfigError, InvalidRequest, UnsupportedParameter
from ekiben.runtime.host import Assignment, prepare_load
from ekiben.runtime.text.bounds import check_chat

MESSAGES = [{"role": "user", "content": "hé <b>"}, {"role": "assistant", "content": "ho"}]


class StepClock:
    """A second goes by with every look."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        self.time += 1
        return self.time

    def now(self) -> datetime:
        return datetime(2026, 5, 1, 12, tzinfo=UTC)


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source).render({"messages": MESSAGES} | variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}\n{% endfor %}",
            "<user>hé <b>\n<assistant>ho\n",
        ),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "hé <b>"}'),
        ("{{ 'a' ~ 1 ~ ('b' + 'c') ~ 'd' * 2 }}", "a1bcdd"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{% generation %}y{% endgeneration %}", "y"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
            "{{ ns.n }}",
            "2",
        ),
        ("{{ messages | map(attribute='role') | join('+') | upper }}", "USER+ASSISTANT"),
        ("{{ 'a-b'.replace('-', '+') }}{{ 'a b'.split()[-1] }}{{ ' x '|trim|replace('x', 'z') }}", "a+bbz"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ f('k' ~ 2) }}", "[1][k2]"),
        ("{% if tools is defined %}t{% endif %}{{ '%s!' % 'hi' }}{{ '{:03d}'.format(7) }}", "hi!007"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
    ],
)
def test_what_templates_count_on(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_date_is_that_of_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m') }}", max_s=100, clock=StepClock())
    assert template.render({}) == "2026-05"


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(InvalidRequest, match="refuses this conversation: roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}", "wrong in line 1: Unexpected end of template"),
        ("a\n{{ a b }}", "wrong in line 2: expected token"),
        ("{{ x | no_such_filter }}", "wrong in line 1: No filter named"),
        ("{% include 'x' %}" * 0 + "x" * (MAX_TEMPLATE_CHARACTERS + 1), "longer than"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be compiled"),
    ],
)
def test_what_is_no_template_is_told_with_its_line(source: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ ''['__class__']['__base__'] }}",
        "{{ ('{0.__class__.__mro__}').format(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ nothing.of.that }}",
        "{{ 1 / 0 }}",
        "{{ 5 | items }}",
        "{{ 2 ** 100000 }}",
        "{{ '%99999999d' % 1 }}",
        "{{ '{:>99999999}'.format(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'secret' %}",
        "{{ messages | tojson(indent=100000) }}",
    ],
)
def test_what_reaches_out_fails_and_shows_nothing(source: str) -> None:
    try:
        shown = render(source)
    except InvalidRequest as error:
        assert error.param == "messages"
    else:
        assert "class" not in shown and "built" not in shown


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 99999999 }}",
        "{{ 9999999999 * 'a' }}",
        "{{ ('a' * 9999).replace('a', 'b' * 9999) }}",
        "{{ ('a' * 9999) | replace('a', 'b' * 9999) }}",
        "{{ 'a'.ljust(99999999) }}",
        "{{ 'a' | indent(99999999, true) }}",
        "{{ (['a' * 9999] * 9999) | join }}",
        "{{ ''.join(['a' * 9999] * 9999) }}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    ],
)
def test_what_writes_without_end_is_stopped(source: str) -> None:
    with pytest.raises(InvalidRequest, match="was stopped: it writes more than"):
        ChatTemplate(source, max_s=60).render({"messages": MESSAGES})


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9) %}{% for b in range(9) %}{% endfor %}{% endfor %}",
        "{% set x %}{% for a in range(99) %}{% endfor %}{% endset %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(9) }}",
        "{% for i in range(99) recursive %}{{ loop([1]) if i == 0 }}{% endfor %}",
    ],
)
def test_what_takes_too_long_is_stopped(source: str) -> None:
    """By a clock on which each look takes a second."""
    with pytest.raises(InvalidRequest, match="was stopped: it takes too long"):
        ChatTemplate(source, max_s=50, clock=StepClock()).render({})


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": ""}}, "chat_template_kwargs.chat_template"),
    ],
)
def test_requests_bring_no_templates(field: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter, match="is not taken from requests") as caught:
        check_chat({"messages": MESSAGES, **field})
    assert caught.value.param == param
    check_chat({"messages": MESSAGES, "chat_template": None, "chat_template_kwargs": {"thinking": True}})


def template_given_to(engine: str, tmp_path: Path, **options: str) -> object:
    variant = {"format": "gguf", "engine": engine, "source": {"kind": "local"}, "options": options}
    about = {"name": "m", "family": "llm", "abilities": ["chat"], "variants": [variant]}
    spec = ModelSpec.model_validate(about | {"chat_template": "of the spec"})
    place = Assignment(model=spec, variant=0, weights=tmp_path, device="cpu", threads=1, scratch=tmp_path)
    _, request = prepare_load(place, report=lambda progress: None)
    return request.options.get("chat_template")


def test_the_specs_template_reaches_the_engine_unless_the_variant_has_its_own(tmp_path: Path) -> None:
    assert template_given_to("llama_cpp", tmp_path) == "of the spec"
    assert template_given_to("llama_cpp", tmp_path, chat_template="its own") == "its own"
