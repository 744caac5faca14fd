"""Chat templates: the bundled ones against golden prompts, the engine against hostile ones.

``tests/cases/templates/CASE.json`` is a conversation; ``TEMPLATE/CASE.txt`` beside it the exact
prompt. A case with tools is only for templates that take tools.
"""

from __future__ import annotations

import copy
import datetime
import json
import pathlib
import subprocess
import sys
import time
import tracemalloc
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.prompting.profile.derive import syntax_of
from proxy.prompting.template import TemplateError, TemplateRefusal, families
from proxy.prompting.template.templates import compile

ROOT = pathlib.Path(__file__).parents[4]
CASES = ROOT / "tests" / "cases" / "templates"
SHIPPED = {
    path.stem: compile(path.read_text("utf-8"), path.stem)
    for path in sorted((ROOT / "templates" / "chat").glob("*.jinja"))
}
NOW = datetime.datetime(2024, 7, 26, 12, 0)
USER = [{"role": "user", "content": "hi"}]
PLAIN = json.loads((CASES / "plain.json").read_text("utf-8"))["messages"]


def golden() -> list[tuple[str, str]]:
    return [
        (name, path.stem)
        for name, template in SHIPPED.items()
        for path in sorted(CASES.glob("*.json"))
        if template.rules.tools or not path.stem.startswith("tool")
    ]


def prompt_of(name: str, case: str) -> str:
    told = json.loads((CASES / f"{case}.json").read_text("utf-8"))
    return SHIPPED[name].render(told["messages"], told.get("tools"), now=NOW)


@pytest.mark.parametrize(("name", "case"), golden())
def test_bundled_template_gives_its_golden_prompt(name: str, case: str) -> None:
    assert prompt_of(name, case) == (CASES / name / f"{case}.txt").read_bytes().decode()


def test_every_bundled_template_has_a_family_and_vice_versa() -> None:
    assert set(SHIPPED) == set(families.FAMILIES)
    for name, template in SHIPPED.items():
        assert template.family.name == name
        assert not template.rules.tools or syntax_of(template).calls is not None


@pytest.mark.parametrize("name", SHIPPED)
def test_longer_history_keeps_shorter_prompt_as_prefix(name: str) -> None:
    # The backend's prompt cache depends on this.
    short = SHIPPED[name].render(PLAIN[:2], add_generation_prompt=False)
    assert SHIPPED[name].render(PLAIN, add_generation_prompt=False).startswith(short)


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=20)
@given(text=st.text(min_size=1))
def test_client_text_is_never_markup_in_any_template(name: str, text: str) -> None:
    for content in (text, "{{ 7 * 7 }}{% for %}{# " + text):
        prompt = SHIPPED[name].render([{"role": "user", "content": content}])
        assert content.strip() in prompt


def render(source: str, messages: Any = USER, **given: Any) -> str:
    return compile(source, "test").render(messages, **given)


def test_block_whitespace_is_trimmed_as_by_hugging_face() -> None:
    source = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n{% endif %}\n{% endfor %}\n"
    )
    assert render(source) == "hi\n"


def test_tojson_is_plain_json_and_takes_its_arguments() -> None:
    messages = [{"b": "<é'&>", "a": 1}]
    assert render("{{ messages[0] | tojson }}", messages) == '{"b": "<é\'&>", "a": 1}'
    ascii_only = (
        "{{ messages[0] | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}"
    )
    assert render(ascii_only, messages) == '{"a":1,"b":"<\\u00e9\'&>"}'
    assert render("{{ messages[0] | tojson(indent=1) }}", [{"a": 1}]) == '{\n "a": 1\n}'


def test_loop_controls_namespace_and_generation_blocks_work() -> None:
    source = (
        "{% set n = namespace(x=0) %}{% for i in range(9) %}{% if i == 2 %}{% continue %}"
        "{% endif %}{% if i > 4 %}{% break %}{% endif %}{% set n.x = n.x + i %}{% endfor %}"
        "{% generation %}{{ n.x }}{% endgeneration %}"
    )
    assert render(source) == "8"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}",
        "{% block day %}{{ strftime_now('%d') }}{% endblock %}",
        "{% set ns = namespace(f=strftime_now) %}{{ ns.f('%d') }}",
    ],
)
def test_template_clock_is_available_everywhere(source: str) -> None:
    assert render(source, now=NOW) == NOW.strftime("%d")
    assert render(source, now=NOW, variables={"strftime_now": "no"}) == NOW.strftime("%d")
    with pytest.raises(TemplateError):
        render(source.replace("%d", "%999999999d"), now=NOW)


def test_template_exception_becomes_refusal_with_its_message() -> None:
    with pytest.raises(TemplateRefusal, match=r"^Roles must alternate!$"):
        render("{{ raise_exception('Roles must alternate!') }}")


def test_begin_token_at_the_start_is_left_to_the_backend() -> None:
    source = "{{ bos_token }}a{{ bos_token }}{{ eos_token }}"
    assert render(source, bos_token="<s>", eos_token="</s>") == "a<s></s>"
    assert render(source, bos_token="<s>", eos_token="", keep_bos=True) == "<s>a<s>"


def test_client_variables_never_shadow_ours() -> None:
    source = "{{ messages | length }}{{ raise_exception is string }}{{ enable_thinking }}"
    hostile = {"messages": [], "raise_exception": "x", "enable_thinking": False, "self": 1}
    assert render(source, variables=hostile) == "1FalseFalse"


def test_template_may_change_its_own_lists() -> None:
    source = (
        "{% set ns = namespace(ids=[]) %}{% for m in messages %}{% set _ = ns.ids.append(m.content)"
        " %}{% endfor %}{{ ns.ids | join('+') }}{{ ns.ids.pop(0) }}{{ ns.ids | length }}"
    )
    assert render(source, [{"role": "user", "content": "a"}] * 3) == "a+a+aa2"


@pytest.mark.parametrize(
    "change",
    ["messages.append(1)", "messages[0].content.pop()", "tools.extend([1])", "x[0].insert(0, 1)"],
)
def test_template_cannot_change_the_lists_of_a_request(change: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    given = {"x": ([1],)}
    form = compile("{% set _ = " + change + " %}", "made")
    before = copy.deepcopy((messages, tools, given))
    with pytest.raises(TemplateError):
        form.render(messages, tools, variables=given)
    assert (messages, tools, given) == before


def test_growth_of_a_templates_list_is_bounded() -> None:
    endless = "{% set l = [1] %}{% for x in l %}{% set _ = l.append(l) %}{% endfor %}"
    with pytest.raises(TemplateError, match="too much work"):
        render(endless)


def test_undefined_values_and_none_are_written_as_nothing() -> None:
    source = "{{ 'a' + x.y }}{{ x + 'b' }}{{ none }}{{ 'c' ~ none }}{{ x.y.z }}"
    assert render(source) == "abc"


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ unknown() }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ 'a' | nosuchfilter }}",
        "{% include 'passwd' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ ''.__class__.__mro__ }}" + "{{ raise_exception('reached') }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(1) }}{{ raise_exception('reached') }}",
    ],
)
def test_faulty_template_raises_template_error(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


FOR_EVER = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(10000000) %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(64) }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 9999 }}{% endfor %}{% endfor %}",
    "{{ 'x' * 999999999999 }}",
    "{{ [0] * 999999999 }}",
    "{{ 9 ** 99999999 }}",
    "{{ 'x' | center(999999999999) }}",
    "{{ 'x' | indent(99999999999) }}",
    "{{ '%999999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%999999999999d' | format(1) }}",
    "{{ '{:>99999999999}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=99999999999) }}",
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x ~ x %}" * 64,
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x + x %}" * 64,
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = 'a' + x + x + x + 'b' + x + 'c' %}" * 64,
    "{% set x = 'xxxxxxxxxxxxxxxx' | safe %}" + "{% set x = x + x %}" * 64,
    "{% set n = namespace(x='') %}{% for i in range(99999) %}{% set n.x = n.x + 'x' * 999 %}"
    "{% endfor %}",
    "{% set n = namespace(x='x' * 9999999) %}{% for i in range(999) %}{% set y = n.x + 'x' %}"
    "{% endfor %}",
    "{% set x = 'x' * 9999999 %}{{ (x + x + x + x + x) | length }}",
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x.replace('x', x) %}" * 9,
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x | replace('x', x) %}" * 9,
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x.join(x) %}" * 9,
    "{% set x = 'xxxxxxxxxxxxxxxx' %}" + "{% set x = x | join(x) %}" * 9,
    "{% set x = [1, 1] %}" + "{% set x = x + x %}" * 64,
    "{% set x = range(99999) | list %}{% for i in range(99999) %}{{ x | sum }}{% endfor %}",
    "{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "{{ range(99999) | map('string') | map('center', 99999) | join | length }}",
    "{{ 'x' | tojson(indent=99999999999) }}",
    "{% set x = 'x' * 9999999 %}{{ [x] * 9999 }}",
    "{% set x = 'x' * 9999999 %}{{ ([x] * 9999) | tojson }}",
    "{% set x = 'x' * 9999999 %}{{ ([x] * 9999) ~ 'a' }}",
    "{% set x = 'x' * 9999999 %}{{ ([x] * 9999) | join }}",
    "{% set x = 'x' * 9999999 %}{{ ''.join([x] * 9999) }}",
    "{% set x = 'x' * 9999999 %}{{ '%s' % ([x] * 9999) }}",
    "{% set x = 'x' * 9999999 %}{{ '{}'.format([x] * 9999) }}",
    "{% set x = 1 %}" + "{% set x = [x, x] %}" * 64 + "{{ x }}",
    "{% set x = 'x' * 9999999 %}{{ ([x] * 9999) | groupby('a', default='') }}",
    "{% set x = 'x' * 9999999 %}{{ {'a': [x] * 9999}.values() }}",
    "{% set x = 'x' * 9999999 %}{{ {'a': [x] * 9999}.items().mapping }}",
    "{% set x = 'x' * 9999999 %}{{ namespace(a=[x] * 9999) }}",
    "{% set n = namespace() %}{% set n.n = [n, n] %}{{ n }}",
    "{% set x = 'x' * 9999999 %}{{ '%s' | format([x] * 9999) }}",
    "{% set x = 'x' * 9999999 %}{{ 'y' | replace('y', [x] * 9999) }}",
    "{% set x = 'x' * 9999999 %}{{ raise_exception([x] * 9999) }}",
]


@pytest.mark.parametrize("source", FOR_EVER)
def test_endless_or_memory_hungry_template_is_stopped(source: str) -> None:
    begun = time.process_time()
    with pytest.raises(TemplateError):
        render(source)
    assert time.process_time() - begun < 4


def test_nothing_is_escaped_in_additions() -> None:
    source = "{{ '<' + ('<' | safe) + x + '>' }}"
    assert render(source, variables={"x": "&"}) == "<<&>"


def test_every_addition_of_large_text_is_charged() -> None:
    source = "{% for i in range(N) %}{{ ('a' + x + 'b')[:0] }}{% endfor %}"
    given = {"x": "x" * 999_999}
    assert render(source.replace("N", "2"), variables=given) == ""
    with pytest.raises(TemplateError, match="too much work"):
        render(source.replace("N", "20"), variables=given)


@pytest.mark.slow
@pytest.mark.parametrize("terms", [150, 1000])
def test_long_addition_compiles_fast_or_is_refused(terms: int) -> None:
    begun = time.process_time()
    with pytest.raises(TemplateError) if terms > 150 else nullcontext():
        compile("{{ x" + " + x" * terms + " }}", "test")
    assert time.process_time() - begun < 10


def test_large_numbers_pass_through_macros_and_defaults() -> None:
    source = (
        "{% macro show(n) %}{{ n }}{% endmacro %}"
        "{{ show(messages[0].time) }} {{ nothing | default(1234567890) }}"
    )
    assert render(source, [{"time": 1700000000000}]) == "1700000000000 1234567890"


def test_template_quadratic_in_messages_serves_long_history() -> None:
    source = (
        "{% for m in messages %}{% if loop.index == messages | length %}{{ m.content }}{% endif %}"
        "{% for n in messages[loop.index0:] %}{% endfor %}{% endfor %}"
    )
    assert render(source, [{"role": "user", "content": "x" * 1000}] * 1000) == "x" * 1000


@pytest.mark.slow
def test_constant_folding_builds_no_large_values() -> None:
    tracemalloc.start()
    try:
        template = compile("{{ 'x' | center(99999) | length }}{{ 'x' | center(99999) }}" * 300, "t")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(TemplateError, match=r"too long|too much work"):
        template.render(USER)


def test_failed_rendering_does_not_use_up_the_next_budget() -> None:
    template = compile(
        "{% for i in range(n) %}{% for j in range(20000) %}{% endfor %}{% endfor %}", "x"
    )
    for _ in range(3):
        with pytest.raises(TemplateError):
            template.render(USER, variables={"n": 90})
        assert template.render(USER, variables={"n": 2}) == ""


DETECTED = "chatml llama-3 llama-2 mistral deepseek command-r chatglm3 glm-4 gemma vicuna alpaca"


@pytest.mark.parametrize("name", DETECTED.split())
def test_family_is_detected_by_template_markers(name: str) -> None:
    family = families.detect(SHIPPED[name].source)
    assert family is not None
    assert family.name == name


def _doubled(first: str, second: str, pair: str = "[{0},{0}]", depth: int = 30) -> str:
    """Two values that each hold the same value twice, `depth` levels deep."""
    told = f"{{% set a = {first} %}}{{% set b = {second} %}}"
    for name in "ab":
        twice = pair.format(name)
        told += f"{{% set {name} = {twice} %}}" * depth
    return told


LISTS = _doubled("[1]", "[1]")
TUPLES = _doubled("(1,)", "(1,)", "({0},{0})", 40)
SPACES = _doubled("namespace()", "namespace()", "namespace(x={0},y={0})")


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        *(
            LISTS + end
            for end in (
                "{{ a == b }}",
                "{{ a < b }}",
                "{{ 1 < 2 == a == b }}",
                "{{ a in [b, 1] }}",
                "{{ [a, b] | sort }}",
                "{% set z = [a, b] | max %}",
                "{{ [a, b] | unique | list | length }}",
                "{{ {'x': a, 'y': b} | dictsort(false, 'value') | length }}",
                "{{ [{'k': a}, {'k': b}] | groupby('k') | length }}",
                "{{ [a] | select('equalto', b) | list | length }}",
                "{{ [{'k': a}] | selectattr('k', '==', b) | list | length }}",
                "{{ a is eq b }}",
                "{{ a is in [b] }}",
                "{{ [a].index(b) }}",
                "{{ [a].count(b) }}",
                "{% for one in [a, b] %}{{ loop.changed(one) }}{% endfor %}",
            )
        ),
        *(
            TUPLES + end
            for end in (
                "{{ {}.get(a) }}",
                "{{ {}[a] }}",
                "{{ {a: 1} | length }}",
                "{{ a in {} }}",
                "{{ dict([(a, 1)]) | length }}",
                "{{ {} | attr(a) }}",
                "{{ [{}] | map(attribute=a) | list }}",
            )
        ),
        SPACES + "{{ a == b }}",
        "{% set s = 'x' * 15000000 %}{% for i in range(90000) %}{% if 'b' in s %}{% endif %}"
        "{% endfor %}",
        "{% set s = 'x' * 15000000 %}{% set t = 'x' * 15000000 %}"
        "{% for i in range(90000) %}{% if s == t %}{% endif %}{% endfor %}",
        "{% set l = range(100000) | list %}{% for i in range(9000) %}{% if -1 in l %}{% endif %}"
        "{% endfor %}",
        "{% set s = 'x' * 15000000 %}{% set l = ["
        + ",".join(f"s[{i}:]" for i in range(1, 900))
        + "] %}",
        "{% for i in range(40000) %}" + "{% set x = i %}" * 500 + "{% endfor %}",
        "{% macro m() %}" + "{% set x = 1 %}" * 500 + "{% endmacro %}"
        "{% for i in range(4000) %}{{ m() }}{% endfor %}",
        "{% for x in [1, 2] recursive %}{{ loop(range(100000)) if loop.depth < 3 }}{% endfor %}",
    ],
)
def test_slow_template_is_refused_soon(source: str) -> None:
    template = compile(source, "hostile")
    began = time.process_time()
    with pytest.raises(TemplateError, match=r"too much work|too large"):
        template.render([{"role": "user", "content": "x" * 1000}])
    assert time.process_time() - began < 3.0


def test_long_conversation_fits_the_rendering_budget() -> None:
    source = (
        "{% set ns = namespace(last='') %}{% for m in messages %}"
        "{% if m.role == ns.last %}{{ raise_exception('twice') }}{% endif %}"
        "{% set ns.last = m.role %}{% if '<think>' in m.content %}{{ m.content[1:] }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content | trim }}{{ m.content.split('x')[-1] }}{% endfor %}"
    )
    said = [
        {"role": "user" if i % 2 else "assistant", "content": "word " * 20} for i in range(10_000)
    ]
    assert compile(source, "honest").render(said).count("<|user|>") == 5_000


def test_compiling_a_template_imports_nothing() -> None:
    """Threads that import at once under gevent wait for each other without end."""
    program = """
import sys
from proxy.prompting.template import templates
before = set(sys.modules)
templates.compile("{% for m in messages %}{{ '<|im|>' + m['role'] + '\\n' }}{% endfor %}", "a test")
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
