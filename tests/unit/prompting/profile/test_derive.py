"""What a model writes, derived from its template: shapes of calls, reasoning, marks and stops."""

from __future__ import annotations

import pathlib

import pytest

from proxy.prompting.formats.base import ID, CallFormat, CallShape
from proxy.prompting.formats.named_calls import LLAMA3
from proxy.prompting.profile.derive import AnswerSyntax, syntax_of
from proxy.prompting.template.templates import compile
from tests.call_formats import FORMS

ROOT = pathlib.Path(__file__).parents[4]

CHATML = """{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and m.reasoning_content %}THOUGHTS{% endif %}{{ m.content or '' }}
{%- if m.tool_calls %}CALLS{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def template(calls: str = "", thoughts: str = "") -> str:
    return CHATML.replace("CALLS", calls).replace("THOUGHTS", thoughts)


def derived(source: str) -> AnswerSyntax:
    return syntax_of(compile(source, "some"))


def calls_of(source: str) -> CallFormat:
    form = derived(source).calls
    assert form is not None
    return form


def each(call: str, before: str = "", between: str = "", after: str = "") -> str:
    """The calls of a message, each by a part of a template that knows it as `c`."""
    join = f"{{% if not loop.last %}}{{{{ {between!r} }}}}{{% endif %}}"
    loop = f"{{% for t in m.tool_calls %}}{{% set c = t.function %}}{call}{join}{{% endfor %}}"
    return before + loop + after


JSON = '{"name": "{{ c.name }}", "arguments": {{ c.arguments | tojson }}}'
TAGS = (
    "<function={{ c.name }}>\n"
    "{% for k, v in c.arguments | items %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>"
)
KEYS = (
    "{{ c.name }}{% for k, v in c.arguments | items %}{{ '\\n' }}<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v if v is string else v | tojson }}</arg_value>{% endfor %}{{ '\\n' }}"
)
LIST = CallShape(
    prefix="<TOOLCALL>[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    suffix="}",
    separator=", ",
    end="]</TOOLCALL>",
)
NAMED = '{"{{ c.name }}": {{ c.arguments | tojson }}}'
SHAPES: list[tuple[str, CallShape]] = [
    (each(f"<tool_call>\n{JSON}\n</tool_call>", between="\n"), FORMS["hermes"].shape),
    (each(JSON, "<TOOLCALL>[", ", ", "]</TOOLCALL>"), LIST),
    (each(f"<tool_call>\n{TAGS}\n</tool_call>", between="\n"), FORMS["qwen-xml"].shape),
    (each(f"<tool_call>{KEYS}</tool_call>", between="\n"), FORMS["glm-4.6"].shape),
    (each(NAMED, "<|tools_prefix|>[", ", ", "]<|tools_suffix|>"), FORMS["apertus"].shape),
    (
        each("[TOOL_CALLS]{{ c.name }}[CALL_ID]{{ t.id }}[ARGS]{{ c.arguments | tojson }}"),
        CallShape(before_name="[TOOL_CALLS]", after_name=f"[CALL_ID]{ID}[ARGS]"),
    ),
]


@pytest.mark.parametrize(("calls", "shape"), SHAPES, ids=lambda part: str(part)[:20])
def test_shape_of_calls_is_read_from_the_template(calls: str, shape: CallShape) -> None:
    assert calls_of(template(calls)).shape == shape


def test_python_literals_are_not_taken_for_tags() -> None:
    """The shape must write what the template renders, for numbers too."""
    call = (
        "{{ c.name }}({% for k, v in c.arguments | items %}{{ k }}={{ v | pyliteral }}{% endfor %})"
    )
    assert derived(template(each(f"<|call|>{call}"))).calls is None


def test_template_of_one_call_a_turn_has_a_shape_without_a_second() -> None:
    source = template(each(f"<tool_call>{JSON}</tool_call>")).replace(
        "{%- if tools %}",
        "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}"
        "{{ raise_exception('one call at once') }}{% endfor %}{%- if tools %}",
    )
    assert not calls_of(source).shape.parallel


def test_template_like_llama_3_with_another_format_is_not_llama_3() -> None:
    calls = each(JSON, before="<TOOLCALL>[", between=", ", after="]</TOOLCALL>")
    source = template(calls).replace("<|im_start|>", "<|start_header_id|>")
    assert calls_of(source).opening == ("<TOOLCALL>",)
    own = (ROOT / "templates/chat/llama-3.jinja").read_text("utf-8")
    assert calls_of(own).name == LLAMA3.name
    assert not LLAMA3.matches(own + "[TOOL_CALLS]")


@pytest.mark.parametrize(
    ("thoughts", "tags"),
    [
        (
            "<seed:think>{{ m.reasoning_content }}</seed:think>\n",
            ("<seed:think>", "</seed:think>"),
        ),
        (
            "<|channel>thought\n{{ m.reasoning_content }}\n<channel|>",
            ("<|channel>thought", "<channel|>"),
        ),
        ("[THINK]{{ m.reasoning_content }}[/THINK]", ("[THINK]", "[/THINK]")),
    ],
)
def test_tags_of_reasoning_are_read_from_the_template(thoughts: str, tags: tuple[str, str]) -> None:
    assert derived(template(thoughts=thoughts)).reasoning == (tags,)


def test_reasoning_that_the_prompt_begins_is_known_by_the_prompts_end() -> None:
    source = template(thoughts="{{ m.reasoning_content }}\n[BEGIN FINAL RESPONSE]\n")
    head = "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    syntax = derived(source.replace(head, head + "Here are my steps:\n"))
    assert syntax.reasoning == (("Here are my steps:", "[BEGIN FINAL RESPONSE]"),)


def test_the_end_of_a_turn_is_known() -> None:
    source = template().replace("<|im_start|>", "<turn>").replace("<|im_end|>", "<turn_end>")
    assert derived(source).stops == ("<turn_end>",)


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "Hello", "{{ messages | tojson }}"]
)
def test_nothing_is_known_of_a_template_that_renders_no_answer(source: str) -> None:
    syntax = derived(source)
    assert not syntax.is_known
