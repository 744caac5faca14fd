"""What small templates take in their messages, and what a conversation becomes for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.core.request import CompletionRequest, Message, Tool, ToolCall
from proxy.prompting.profile.adapt import MessageRules
from proxy.prompting.prompt import Prompter
from proxy.prompting.template.templates import compile

NOW = datetime(2026, 2, 3, tzinfo=UTC)
ID = "call_0123456789abcdef01234567"

LOOP = "{% for m in messages %}"
END = "{% endfor %}{% if add_generation_prompt %}[A]{% endif %}"
TURN = "[{{ m.role[0] | upper }}]{{ m.content }}</t>"
PLAIN = LOOP + TURN + END
FIRST = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}|{% endif %}"
    + LOOP
    + "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% elif m.role != 'system' %}" + TURN + "{% endif %}" + END
)
SILENT = LOOP + "{% if m.role != 'system' %}" + TURN + "{% endif %}" + END
ALTERNATING = (
    LOOP + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + TURN + END
)
PARTS = (
    LOOP + "[{{ m.role[0] | upper }}]{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }};{% endif %}{% endfor %}" + END
)
CALLS = (
    "{% if tools %}{{ tools | tojson }}|{% endif %}"
    + LOOP
    + "{% if m.tool_calls %}{% for c in m.tool_calls %}<{{ c.id }} {{ c.function.name }} "
    "{{ c.function.arguments | tojson }}>{% endfor %}{% endif %}" + TURN + END
)
NINE = CALLS.replace("<{{ c.id }}", "{% if c.id | length != 9 %}{{ 1 / 0 }}{% endif %}<{{ c.id }}")
ONE = CALLS.replace("{% for c", "{% if m.tool_calls | length > 1 %}{{ 1 / 0 }}{% endif %}{% for c")
TEXT = CALLS.replace("{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}")
NO_TEXT = CALLS.replace(TURN, "{% if not m.tool_calls %}" + TURN + "{% endif %}")
THOUGHTS = PLAIN.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}",
).replace("[A]{% endif %}", "[A]<think>{% if not enable_thinking %}</think>{% endif %}{% endif %}")
EFFORTS = (
    "{% if reasoning_effort is defined and reasoning_effort not in ['low', 'xhigh'] %}"
    "{{ raise_exception('unexpected effort') }}{% endif %}{{ reasoning_effort }}|" + PLAIN
)


def rules(source: str) -> MessageRules:
    return compile(source, "of a test").rules


def prompt(source: str, *messages: Message, **request: Any) -> str:
    form = Prompter(compile(source, "of a test"))
    return form.render(CompletionRequest(messages=messages, **request), NOW).text


def said(role: Any, content: str = "", **more: Any) -> Message:
    return Message(role=role, content=content, **more)


def called(*names: str, content: str = "", ids: tuple[str, ...] = (ID, ID[:-1])) -> Message:
    calls = tuple(ToolCall(id, name, '{"x": 1}') for id, name in zip(ids, names, strict=False))
    return Message(role="assistant", content=content, tool_calls=calls)


TOOLS = (Tool("spin"), Tool("stop"))
ASKED = said("user", "Hi")


@pytest.mark.parametrize(
    ("source", "place", "expected"),
    [
        (PLAIN, "anywhere", "[S]a</t>[U]b</t>[A]c</t>[S]d</t>[U]e</t>[A]"),
        (FIRST, "first", "a|[U]b</t>[A]c</t>[U]d\ne</t>[A]"),
        (SILENT, "none", "[U]a\nb</t>[A]c</t>[U]d\ne</t>[A]"),
    ],
)
def test_system_texts_are_never_lost(source: str, place: str, expected: str) -> None:
    assert rules(source).system == place
    chat = map(said, ("system", "user", "assistant", "system", "user"), "abcde")
    assert prompt(source, *chat) == expected


def test_late_system_text_joins_the_users_message_or_stands_alone() -> None:
    told = said("system", "new")
    assert prompt(SILENT, ASKED, told) == "[U]Hi\nnew</t>[A]"
    assert prompt(SILENT, ASKED, said("assistant", "a"), told) == "[U]Hi</t>[A]a</t>[U]new</t>[A]"


def test_turns_alternate_where_they_must() -> None:
    assert rules(ALTERNATING).alternates and not rules(PLAIN).alternates
    users = (said("user", "a"), said("user", "b"), said("assistant", "c"), said("user", "d"))
    assert prompt(ALTERNATING, *users) == "[U]a\nb</t>[A]c</t>[U]d</t>[A]"
    greeted = prompt(ALTERNATING, said("assistant", "Welcome"), said("user", "a"))
    assert greeted == "[U]</t>[A]Welcome</t>[U]a</t>[A]"


def test_parts_are_what_the_template_takes() -> None:
    both = (
        LOOP + "{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}" + END
    )
    assert [rules(source).content for source in (PLAIN, both, PARTS)] == ["text", "both", "parts"]
    parts = said("user", "one\ntwo", parts=(0, 4))
    assert prompt(PLAIN, parts) == "[U]one\ntwo</t>[A]"
    assert prompt(both, parts) == "(one)(two)[A]"
    assert prompt(both, said("user", "one\ntwo")) == "one\ntwo[A]"
    assert prompt(PARTS, parts) == "[U]one;two;[A]"
    assert prompt(PARTS, said("user", "one\ntwo")) == "[U]one\ntwo;[A]"


def test_tools_and_calls_are_written_by_the_template() -> None:
    known = rules(CALLS)
    assert (known.tools, known.calls, known.call_ids) == (True, True, "any")
    text = prompt(CALLS, ASKED, called("spin"), said("tool", "4", tool_call_id=ID), tools=TOOLS)
    assert text.endswith(f'[U]Hi</t><{ID} spin {{"x": 1}}>[A]</t>[T]4</t>[A]')


def test_ids_are_short_where_they_must_be_and_alike_for_call_and_result() -> None:
    assert rules(NINE).call_ids == "nine"
    result = said("tool", "4", tool_call_id=ID)
    with_id = NINE.replace("{{ m.content }}", "{{ m.tool_call_id }}{{ m.content }}")
    text = prompt(with_id, ASKED, called("spin"), result, tools=TOOLS)
    (short,) = {text.partition(" spin ")[0][-9:], text.partition("[T]")[2][:9]}
    assert short.isalnum() and ID not in text
    own = called("spin", ids=("abcDEF123",))
    assert "<abcDEF123 spin" in prompt(NINE, ASKED, own, tools=TOOLS)


def test_calls_are_split_and_keep_their_results_where_a_turn_has_one() -> None:
    assert (rules(ONE).calls_per_turn, rules(CALLS).calls_per_turn) == ("one", "many")
    results = [said("tool", text, tool_call_id=id) for text, id in (("2", ID[:-1]), ("1", ID))]
    both = called("spin", "stop", content="Now.")
    text = prompt(ONE, ASKED, both, *results, said("user", "Ok"), tools=TOOLS)
    assert text.partition("|")[2] == (
        f'[U]Hi</t><{ID} spin {{"x": 1}}>[A]Now.</t>[T]1</t>'
        f'<{ID[:-1]} stop {{"x": 1}}>[A]</t>[T]2</t>[U]Ok</t>[A]'
    )


def test_arguments_are_text_where_they_must_be() -> None:
    assert (rules(TEXT).arguments, rules(CALLS).arguments) == ("text", "object")
    assert 'spin {"x": 1}>' in prompt(TEXT, ASKED, called("spin"), tools=TOOLS)


def test_arguments_that_were_cut_off_are_no_error() -> None:
    items = CALLS.replace(
        "{{ c.function.arguments | tojson }}",
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    )
    call = Message(role="assistant", tool_calls=(ToolCall(ID, "spin", '{"x": '),))
    assert 'spin arguments={"x": >' in prompt(items, ASKED, call, tools=TOOLS)


def test_text_beside_calls_is_a_turn_of_its_own_where_it_would_be_lost() -> None:
    text = prompt(NO_TEXT, ASKED, called("spin", content="Now."), tools=TOOLS)
    assert text.endswith(f'[U]Hi</t>[A]Now.</t><{ID} spin {{"x": 1}}>[A]')


def test_calls_are_written_out_where_the_template_describes_tools_alone() -> None:
    source = "{{ tools | tojson }}" + PLAIN
    known = rules(source)
    assert known.tools and not known.calls
    assert '"spin", "arguments": {"x": 1}' in prompt(source, ASKED, called("spin"), tools=TOOLS)


def test_thinking_is_on_until_it_is_switched_off() -> None:
    assert rules(THOUGHTS).thinks and not rules(PLAIN).thinks
    assert prompt(THOUGHTS, ASKED).endswith("[A]<think>")
    for off in ({"reasoning_effort": "none"}, {"template_kwargs": {"enable_thinking": False}}):
        assert prompt(THOUGHTS, ASKED, **off).endswith("[A]<think></think>")


def test_begun_answer_continues_as_the_template_writes_answers() -> None:
    begun = said("assistant", "Sure", reasoning="why")
    assert prompt(THOUGHTS, ASKED, begun).endswith("[A]<think>why</think>Sure")
    assert prompt(THOUGHTS, ASKED, said("assistant", "Sure")).endswith("[A]<think></think>Sure")
    off = prompt(THOUGHTS, ASKED, said("assistant", "Sure"), reasoning_effort="none")
    assert off.endswith("[A]<think></think>Sure")


@pytest.mark.parametrize(
    ("effort", "word"),
    [("minimal", "low"), ("low", "low"), ("medium", "low"), ("high", "xhigh"), ("max", "xhigh")],
)
def test_effort_becomes_a_word_of_the_template(effort: str, word: str) -> None:
    assert rules(EFFORTS).efforts == ("low", "xhigh")
    assert prompt(EFFORTS, ASKED, reasoning_effort=effort).startswith(f"{word}|")


def test_earlier_reasoning_is_kept_unless_the_client_says_otherwise() -> None:
    source = PLAIN.replace("{{ m.content }}", "{% if not clear_thinking %}{{ m.reasoning_content }}"
                           "{% endif %}{{ m.content }}")  # fmt: skip
    chat = (ASKED, said("assistant", "a", reasoning="why "), said("user", "b"))
    assert prompt(source, *chat) == "[U]Hi</t>[A]why a</t>[U]b</t>[A]"
    forgetting = {"preserve_reasoning": False}
    assert prompt(source, *chat, template_kwargs=forgetting) == "[U]Hi</t>[A]a</t>[U]b</t>[A]"


def test_dates_are_todays() -> None:
    assert prompt("{{ date_string }}/{{ datetime }}/" + PLAIN, ASKED).startswith(
        "03 Feb 2026/Feb 03 2026/"
    )


@pytest.mark.parametrize(
    ("turn", "stops", "turns"),
    [
        (TURN, ("</t>",), ()),
        ("{{ '\\n\\n' + m.role + ': ' + m.content }}", (), ("\n\nuser:",)),
        ("<|{{ m.role }}|>{{ m.content }}", ("<|user|>",), ()),
    ],
)
def test_end_of_a_turn_is_known_without_a_family(
    turn: str, stops: tuple[str, ...], turns: tuple[str, ...]
) -> None:
    form = Prompter(compile(LOOP + turn + END, "of a test"))
    prompt = form.render(CompletionRequest(messages=(ASKED,)), NOW)
    assert (prompt.stop_tokens, prompt.stop_strings) == (stops, turns)


def test_refusal_that_loses_nothing_is_overruled() -> None:
    picky = LOOP + "{% if 'odd' in m.content %}{{ raise_exception('no odd') }}{% endif %}" + TURN
    assert prompt(picky + END, said("user", "odd")) == "[U]odd</t>[A]"


@pytest.mark.parametrize("source", ["{{ raise_exception('never') }}", "{{ 1 / 0 }}", "", "{{ x }}"])
def test_template_that_fails_or_writes_nothing_has_safe_rules(source: str) -> None:
    known = rules(source)
    assert not (known.tools or known.calls or known.thinks or known.efforts or known.end)
