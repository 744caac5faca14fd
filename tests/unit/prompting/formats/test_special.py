"""The special formats: samples of our own, and llama.cpp's cases for their templates."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import ReasoningDelta, ToolCallDelta
from proxy.gbnf import NEW, OLD, GrammarLimits, check, matches
from proxy.prompting.constraints import Callee, Constraint, grammar
from proxy.prompting.formats import SPECIAL
from proxy.prompting.formats.base import ID, CallFormat
from proxy.prompting.formats.objects import write_calls
from proxy.prompting.stages.calls import special_marks
from tests.call_formats import FORMS, Answer, parse
from tests.thorough import share
from tools import chat_cases
from tools.servers import find


def cuts(text: str) -> list[list[str]]:
    """The text as streams: whole, by character, and in odd pieces."""
    sizes = (1, 2, 3, 7, 16)
    return [[text], *([text[at : at + n] for at in range(0, len(text), n)] for n in sizes)]


def parse_any_cut(form: CallFormat, text: str, tools: Any, prompt: str = "") -> Answer:
    """The answer, which must not depend on how the stream is cut."""
    answers = [parse(form, pieces, tools, prompt) for pieces in cuts(text)]
    assert all(answer == answers[0] for answer in answers), answers
    return answers[0]


# llama.cpp's cases


def their_cases(*, continuing: bool = False) -> list[Any]:
    """Those for templates of our formats; one that is skipped if the server is not built."""
    server = find("llama-2026")
    if server is None:
        reason = "llama.cpp's cases come with llama-2026: python -m tools.servers build llama-2026"
        return [pytest.param({}, SPECIAL[0], marks=pytest.mark.skip(reason=reason))]
    templates = server.parent / chat_cases.TEMPLATES
    out = []
    for number, case in enumerate(chat_cases.read(server.parent)):
        name = pathlib.PurePath(case["template"]).name
        source = (templates / name).read_text("utf-8")
        form = next((form for form in SPECIAL if form.matches(source)), None)
        if form and (not continuing or (case["continues"] and form.reads_reasoning)):
            out.append(pytest.param(case, form, id=f"{number}-{name}"))
    return out


@pytest.mark.parametrize(("case", "form"), their_cases(continuing=True))
def test_llama_cpp_means_the_same_by_an_answer_that_goes_on(case: Any, form: CallFormat) -> None:
    """Whole answers are played through the whole program. White space around text belongs to the
    format. llama.cpp reports the whole message, we what comes behind the prompt."""
    ours = parse_any_cut(form, case["input"], {}, case["prompt"])
    before = case["messages"][-1]
    assert (ours.text.strip(), ours.reasoning.strip(), ours.calls) == (
        case["content"].removeprefix(before.get("content") or "").strip(),
        case["reasoning"].removeprefix(before.get("reasoning_content") or "").strip(),
        case["calls"],
    )


# Our own samples: an answer with reasoning, text and calls, as the model writes it


CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
NOTE = {"type": "object", "properties": {"text": {"type": ["string", "null"]}}}
TOOLS: dict[str, Any] = {"get_weather": CITY, "note": NOTE, "plan": {"type": "object"}}
OSLO = ("get_weather", {"city": "Oslo", "days": 3})
NS = "]<]minimax[>["

SAMPLES: dict[str, tuple[str, str, str]] = {
    # prompt, reasoning and text, a call
    "harmony": (
        "<|start|>assistant",
        "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant"
        "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Oslo", "days": 3}',
    ),
    "muse": (
        "<|start|>assistant",
        " to=self<|message|>I look.<|eom|><|start|>assistant"
        " to=user<|message|>One moment.<|eom|><|start|>assistant",
        " to=get_weather<|message|><atem:function_calls>\n"
        '<atem:invoke name="get_weather">\n<atem:parameter name="city">Oslo</atem:parameter>\n'
        '<atem:parameter name="days">3</atem:parameter>\n</atem:invoke>\n</atem:function_calls>',
    ),
    "functionary-v3": (
        "<|start_header_id|>assistant<|end_header_id|>\n\n>>>",
        "all\nOne moment.\n>>>",
        'get_weather\n{"city": "Oslo", "days": 3}',
    ),
    "kimi-k2": (
        "<|im_assistant|>assistant<|im_middle|>",
        "One moment.\n",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "Oslo", "days": 3}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
    ),
    "kimi-k3": (
        '<|open|>message role="assistant"<|sep|><|open|>think<|sep|>',
        "I look.<|close|>think<|sep|><|open|>response<|sep|>One moment.<|close|>response<|sep|>",
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
        '<|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|>'
        '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
    ),
    "cohere2-moe": (
        "<|CHATBOT_TOKEN|><|START_THINKING|>",
        "I look.<|END_THINKING|><|START_TEXT|>One moment.<|END_TEXT|>",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Oslo", "days": 3}}\n]<|END_ACTION|>',
    ),
    "command-r7b": (
        "<|CHATBOT_TOKEN|>",
        "<|START_THINKING|>I look.<|END_THINKING|><|START_RESPONSE|>One moment.<|END_RESPONSE|>",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Oslo", "days": 3}}\n]<|END_ACTION|>',
    ),
    "lfm2": (
        "<|im_start|>assistant\n",
        "One moment.\n",
        '<|tool_call_start|>[get_weather(city="Oslo", days=3)]<|tool_call_end|>',
    ),
    "gigachat3": (
        "assistant<|role_sep|>\n",
        "One moment.\n",
        "<|message_sep|>\n\nfunction call<|role_sep|>\n"
        '{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}',
    ),
    "minimax-m3": (
        "]~b]ai\n",
        "One moment.\n",
        f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<city>Oslo{NS}</city>'
        f"{NS}<days>3{NS}</days>{NS}</invoke>\n{NS}</tool_call>",
    ),
    "gemma4": (
        "<|turn>model\n",
        "<|channel>thought\nI look.<channel|>One moment.\n",
        '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>',
    ),
}
SAMPLED = [form for form in SPECIAL if form.name in SAMPLES]
WHOLE = [form for form in SPECIAL if form.reads_reasoning]
EACH = pytest.mark.parametrize("form", SAMPLED, ids=lambda form: form.name)


@EACH
def test_answer_is_read_from_anywhere_in_the_turn(form: CallFormat) -> None:
    """A prompt may end with any part of the answer before a call: a client's prefill."""
    prompt, before, call = SAMPLES[form.name]
    for at in range(len(before) + 1):
        answer = parse_any_cut(form, before[at:] + call, TOOLS, prompt + before[:at])
        assert answer.calls == [OSLO], at
        assert "One moment.".endswith(answer.text), at
        assert "I look.".endswith(answer.reasoning), at
        if not at:
            reasoning = "I look." if "I look." in before else ""
            assert (answer.text, answer.reasoning) == ("One moment.", reasoning)


@pytest.mark.parametrize("form", WHOLE, ids=lambda form: form.name)
def test_calls_without_tools_are_not_called(form: CallFormat) -> None:
    prompt, before, call = SAMPLES[form.name]
    assert parse_any_cut(form, before + call, {}, prompt).calls == []


@EACH
def test_quoted_call_is_text(form: CallFormat) -> None:
    """A model that explains its format writes it as code."""
    prompt, before, call = SAMPLES[form.name]
    start = before[: before.index("One moment.")]
    marks = call + (before[-40:] if form.name in ("harmony", "muse", "functionary-v3") else "")
    for quote in (f"```\n{marks}\n```", f"```text\n{marks}\n```\nDone.", f"Write `{call}` so."):
        if "\n" in call and quote.startswith("Write"):
            continue
        answer = parse_any_cut(form, start + "So it is written:\n" + quote, TOOLS, prompt)
        assert answer.calls == [], quote
        assert answer.text == "So it is written:\n" + quote


@EACH
def test_mark_in_prose_is_text(form: CallFormat) -> None:
    prompt, before, _ = SAMPLES[form.name]
    start = before[: before.index("One moment.")]
    marks = [*form.opening, *form.content, form.reasoning[1], "<|end|>", "<|eom|>", ">>>"]
    for mark in marks:
        if mark.strip():
            said = f"The mark {mark} begins a call, and {mark} is one token. >>> 1 + 1"
            answer = parse_any_cut(form, start + said, TOOLS, prompt)
            assert (answer.calls, answer.text) == ([], said), mark


@EACH
def test_arguments_stream(form: CallFormat) -> None:
    """Arguments arrive before the call is complete."""
    prompt, _, call = SAMPLES[form.name]
    parser = form.parser(TOOLS, prompt)
    begin = "" if form.name in ("harmony", "muse", "functionary-v3") else "\n"
    if form.reasoning[1] and prompt.rstrip().endswith(form.reasoning[0].strip()):
        begin = form.reasoning[1]
    pieces = parser.feed(begin + call[: call.index("Oslo") + 4])
    assert isinstance(pieces[-1], ToolCallDelta)
    assert pieces[-1].arguments.replace(" ", "") == '{"city":"Oslo'


@pytest.mark.parametrize(
    "form", [form for form in SAMPLED if form.reasoning[0]], ids=lambda form: form.name
)
def test_reasoning_streams(form: CallFormat) -> None:
    prompt = SAMPLES[form.name][0]
    opened = prompt.rstrip().endswith(form.reasoning[0].strip())
    parser = form.parser(TOOLS, prompt)
    assert parser.feed(("" if opened else form.reasoning[0]) + "I think") == [
        ReasoningDelta("I think")
    ]
    assert parser.feed(" so") == [ReasoningDelta(" so")]
    assert parser.feed(" far.") == [ReasoningDelta(" far.")]


# Calls that must be made


LIMITS = pytest.mark.parametrize("limits", [OLD, NEW], ids=lambda limits: limits.name)
HARD = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "n": {"type": ["integer", "null"]},
        "list": {"type": "array", "items": {"type": "string"}},
        "at": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        "on": {"type": "boolean"},
    },
}
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"text": "She said: \"12\" <b>\\n</b>, 'it's' done).\n  {a: 1}"},
    {"text": "12345", "n": 12345},
    {"text": "null", "n": None, "on": True},
    {"maybe": "12345", "on": False},
    {"maybe": "true"},
    {"list": ["a", "b, c)", ""], "at": {"x": -1.5e3}},
    {"text": "北京 – ✓", "list": []},
    {"text": ""},
]


def forced(form: CallFormat, schema: Any, limits: GrammarLimits, text: str, most: int = 1) -> bool:
    callees = tuple(Callee(name, json.dumps(schema).encode()) for name in ("get_weather", "edit"))
    bound = Constraint(tools=callees, shape=form.shape, most=most)
    return matches(check(grammar(bound, limits).text, limits), text)


@LIMITS
@EACH
def test_grammar_of_a_forced_call_is_the_models_format(
    form: CallFormat, limits: GrammarLimits
) -> None:
    call = SAMPLES[form.name][2]
    assert forced(form, CITY, limits, call)
    assert not forced(form, CITY, limits, call.replace("days", "nights"))
    assert not forced(form, CITY, limits, call.replace("3", "three"))
    assert not forced(form, CITY, limits, "One moment.")


@pytest.mark.slow
@LIMITS
@EACH
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_forced_call_means_its_arguments(
    form: CallFormat, limits: GrammarLimits, arguments: dict[str, Any]
) -> None:
    """What a grammar allows is parsed to the arguments that it means."""
    text = write_calls(form.shape, ("edit", arguments)).replace(ID, "0")
    assert forced(form, HARD, limits, text)
    answer = parse_any_cut(form, text, {"edit": HARD}, turn_of(form))
    assert (answer.text, answer.reasoning) == ("", "")
    assert answer.calls == [("edit", arguments)]


@pytest.mark.parametrize(
    "form", [form for form in SAMPLED if form.shape.parallel], ids=lambda form: form.name
)
def test_several_forced_calls(form: CallFormat) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("edit", {"text": "a"}),
        ("get_weather", {"n": 1}),
        ("edit", {}),
    ]
    text = write_calls(form.shape, *calls).replace(ID, "0")
    assert forced(form, HARD, NEW, text, most=3)
    assert not forced(form, HARD, NEW, text, most=2)
    answer = parse_any_cut(form, text, {"edit": HARD, "get_weather": HARD}, turn_of(form))
    assert answer.calls == [(name, arguments) for name, arguments in calls]


def turn_of(form: CallFormat) -> str:
    """A prompt after which a call comes: reasoning and text are over."""
    prompt = SAMPLES[form.name][0]
    opening, closing = form.reasoning
    return prompt + closing if opening and prompt.rstrip().endswith(opening.strip()) else prompt


@pytest.mark.parametrize(("case", "form"), their_cases())
def test_server_is_asked_for_the_special_tokens(case: Any, form: CallFormat) -> None:
    """A server leaves special tokens out of the text unless the request lists them."""
    marks = special_marks(form)
    text = case["input"]
    for token in re.findall(r"<\|[A-Za-z_]+\|?>|<[a-z_]+\|>|\[/?[A-Z]+\]|｜DSML｜", text):
        if token in form.stops or token == "<|call|>":
            continue
        assert token in marks


# Any text


def sample(form: CallFormat) -> tuple[str, str, str]:
    call = write_calls(form.shape, OSLO).replace(ID, "123456789")
    return SAMPLES.get(form.name, ("", "One moment.\n", call))


def bits_of(form: CallFormat) -> list[str]:
    """Pieces of the format, and others."""
    prompt, before, call = sample(form)
    parts = re.split(r"(<[^<>\s]*>|\n|[{}()\[\],:=\"])", prompt + before + call)
    texts = ["a", " ", "\n", "`", "```", "{", "}", '"', "'", "\\", "1", "null", "北京"]
    whole = [before, call, *form.opening, *form.content, *form.reasoning]
    return sorted({part for part in (*parts, *texts, *whole) if part})


@pytest.mark.parametrize("form", [*SAMPLED, *FORMS.values()], ids=lambda form: form.name)
@settings(max_examples=share(80))
@given(data=st.data())
def test_any_text_is_read_the_same_whole_and_split(form: CallFormat, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.sampled_from(bits_of(form)), max_size=14))
    reply = "".join(bits)
    prompt = sample(form)[0]
    at = data.draw(st.integers(0, len(reply)))
    ends = sorted(data.draw(st.sets(st.integers(0, len(reply)), max_size=8)))
    pieces = [reply[a:b] for a, b in zip([0, *ends], [*ends, len(reply)], strict=True)]
    whole = parse(form, [reply], TOOLS, prompt)
    assert parse(form, pieces, TOOLS, prompt) == whole
    begun = [piece[max(0, at - start) :] for start, piece in zip([0, *ends], pieces, strict=True)]
    rest = parse(form, [reply[at:]], TOOLS, prompt + reply[:at])
    assert parse(form, begun, TOOLS, prompt + reply[:at]) == rest


def test_arguments_are_bounded() -> None:
    """Deep values and long texts end a call, and nothing breaks."""
    for form in SAMPLED:
        prompt, before, call = SAMPLES[form.name]
        for value in ("[" * 500, "{a:" * 500, "(" * 500, "9" * 5000, "\\u" * 300):
            reply = before + call.replace("3", value)
            parse(form, [reply], TOOLS, prompt)
            parse(form, [reply[at : at + 1000] for at in range(0, len(reply), 1000)], TOOLS, prompt)


SPECIALS: list[tuple[str, str, str, str, list[tuple[str, Any]]]] = [
    # format, answer, text, reasoning, calls
    (
        "harmony",
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant"
        '<|channel|>final <|constrain|>json<|message|>{"a": 1}<|return|>',
        '{"a": 1}',
        "One.\n\nTwo.",
        [],
    ),
    (
        "harmony",
        '<|channel|>commentary to=functions.note<|message|>{"text": "a"}<|call|><|start|>assistant'
        ' to=functions.note<|channel|>commentary json<|message|>{"text": "b"}<|call|>',
        "",
        "",
        [("note", {"text": "a"}), ("note", {"text": "b"})],
    ),
    (
        "harmony",
        "<|channel|>commentary to=browser.search<|message|>oslo<|end|><|start|>assistant"
        "<|channel|>final<|message|>The token <|end|> ends a message.",
        "The token <|end|> ends a message.",
        "",
        [],
    ),
    ("harmony", "Plain text, no header.", "Plain text, no header.", "", []),
    (
        "gemma4",
        '<|tool_call>call:plan{stops:[{city:<|"|>Oslo, "N"<|"|>,n:[1,2.5]},null],'
        'text:<|"|>{a:\n1}<|"|>}<tool_call|>',
        "",
        "",
        [("plan", {"stops": [{"city": 'Oslo, "N"', "n": [1, 2.5]}, None], "text": "{a:\n1}"})],
    ),
    (
        "gemma4",
        "The mark <|channel> opens a channel, <channel|> closes it.",
        "The mark <|channel> opens a channel, <channel|> closes it.",
        "",
        [],
    ),
    (
        "lfm2",
        "<|tool_call_start|>[plan(a='it's', b=[True, None, (1, 0.5)], c={'k': 'v', 2: \"x\\ty\"}), "
        "note(text='\\u00e9\\q')]<|tool_call_end|>",
        "",
        "",
        [
            ("plan", {"a": "it's", "b": [True, None, [1, 0.5]], "c": {"k": "v", "2": "x\ty"}}),
            ("note", {"text": "é\\q"}),
        ],
    ),
    (
        "lfm2",
        "<|tool_call_start|>[note(text=__import__('os').getcwd())]<|tool_call_end|>",
        "('os').getcwd())]<|tool_call_end|>",
        "",
        [],
    ),
    (
        "minimax-m3",
        f'{NS}<tool_call>\n{NS}<invoke name="plan">{NS}<stops>{NS}<item>{NS}<n>1{NS}</n>{NS}</item>'
        f"{NS}<item>b{NS}</item>{NS}</stops>{NS}<on>true{NS}</on>{NS}<t>a <b>{NS}</t>{NS}</invoke>"
        f"\n{NS}</tool_call>",
        "",
        "",
        [("plan", {"stops": [{"n": 1}, "b"], "on": True, "t": "a <b>"})],
    ),
    (
        "functionary-v3",
        "all\nA doctest:\n>>> add(1, 2)\n3\n>>>note\nis a name",
        "A doctest:\n>>> add(1, 2)\n3\n>>>note\nis a name",
        "",
        [],
    ),
]


@pytest.mark.parametrize(("name", "reply", "text", "reasoning", "calls"), SPECIALS)
def test_special_answer(
    name: str, reply: str, text: str, reasoning: str, calls: list[tuple[str, Any]]
) -> None:
    form = next(form for form in SPECIAL if form.name == name)
    answer = parse_any_cut(form, reply, TOOLS, SAMPLES[name][0])
    assert (answer.text, answer.reasoning) == (text, reasoning)
    assert [call for call in answer.calls if type(call[1]) is dict] == calls
