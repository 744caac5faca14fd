"""Constrained answers: tool calls, documents and thoughts; what each run requests and what the
client receives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from proxy.backends.driver import Capabilities
from proxy.core.events import Batch, Finished, Started, TextDelta, TokenLogprob
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.gbnf import NEW, check, matches
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, Script, ScriptedDriver, ScriptedRun, make_app, say

USER = [{"role": "user", "content": "Hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


WEATHER = function(name="get_weather", parameters=CITY)
NOW = function(name="now")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
MODERN = msgspec.structs.replace(CAPS, dialect="llama-server", modern_sampling=True, queues=True)


class ScriptPlayer(ScriptedDriver):
    """Plays one script per run, and repeats the last one."""

    def __init__(self, *scripts: Script, caps: Capabilities = MODERN) -> None:
        super().__init__(caps=caps)
        self.scripts: list[Script] = list(scripts)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return super().stream(task, slot, caps, cancel)

    @property
    def grammars(self) -> list[str]:
        return [str(task.sampling.get("grammar", "")) for task in self.tasks]

    @property
    def prompts(self) -> list[str]:
        return [str(task.prompt) for task in self.tasks]


def served(driver: ScriptedDriver, template: str = "hermes", **settings: Any) -> FlaskClient:
    return make_app(driver, chat_template=template, **settings).test_client()


def chat(to: FlaskClient, **fields: Any) -> TestResponse:
    return to.post("/v1/chat/completions", json={"messages": USER, **fields})


def message(answer: TestResponse) -> dict[str, Any]:
    """The message of a whole answer, or of a stream as a client assembles it."""
    assert answer.status_code == 200, answer.get_data(as_text=True)
    if answer.mimetype == "text/event-stream":
        return assembled(deltas(answer))
    assert answer.json is not None
    whole: dict[str, Any] = answer.json["choices"][0]["message"]
    return whole


def error(answer: TestResponse, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.get_data(as_text=True)
    assert answer.json is not None
    told: dict[str, Any] = answer.json["error"]
    return told


def usage(answer: TestResponse) -> dict[str, Any]:
    assert answer.json is not None
    counts: dict[str, Any] = answer.json["usage"]
    return counts


def cut_off(text: str) -> Script:
    """A text that ends at the limit of tokens."""
    return [*split_text(text)[:-1], [Finished(reason="length", usage=Usage(7, 5, 0))]]


def reason(answer: TestResponse) -> str:
    last = answer.json or deltas(answer)[-1]
    return str(last["choices"][0]["finish_reason"])


def deltas(answer: TestResponse) -> list[dict[str, Any]]:
    frames = [f.removeprefix("data: ") for f in answer.get_data(as_text=True).split("\n\n")]
    return [json.loads(f) for f in frames if f.startswith("{")]


def assembled(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    calls: dict[int, dict[str, Any]] = {}
    texts = {"content": "", "reasoning_content": ""}
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"]):
        for name in texts:
            texts[name] += delta.get(name) or ""
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {"function": {"arguments": ""}})
            call.update({k: v for k, v in piece.items() if k in ("id", "type")})
            function = call["function"]
            if "name" in piece["function"]:
                assert "name" not in function, "the name comes once"
                function["name"] = piece["function"]["name"]
            function["arguments"] += piece["function"].get("arguments", "")
    whole: dict[str, Any] = {name: text or None for name, text in texts.items()}
    return whole | ({"tool_calls": [*calls.values()]} if calls else {})


def arguments_of(answer: TestResponse) -> list[str]:
    return [call["function"]["arguments"] for call in message(answer)["tool_calls"]]


def split_text(text: str, size: int = 3) -> list[Batch]:
    return say(*(text[i : i + size] for i in range(0, len(text), size)))


# required and named: constrained from the start


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_required_call_has_grammar_from_the_start(choice: Any, stream: bool) -> None:
    name = "get_weather" if choice == "required" else "now"
    arguments = '{"city": "Oslo"}' if choice == "required" else "{}"
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
    driver = ScriptPlayer(split_text(text))
    answer = chat(served(driver), tools=[WEATHER, NOW], tool_choice=choice, stream=stream)
    grammar = check(driver.grammars[0], NEW)
    assert len(driver.tasks) == 1
    assert matches(grammar, text)
    assert not matches(grammar, "It is sunny.")
    assert matches(grammar, CALL) == (choice == "required")
    assert message(answer)["content"] is None
    (call,) = message(answer)["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": name, "arguments": arguments}}
    assert reason(answer) == "tool_calls"


def test_parallel_calls_need_the_clients_permission() -> None:
    for parallel in (True, False):
        two = CALL + "\n" + CALL.replace("Oslo", "Bergen")
        driver = ScriptPlayer(split_text(two if parallel else CALL))
        fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": parallel}
        told = message(chat(served(driver), **fields))
        assert len(told["tool_calls"]) == 1 + parallel
        assert len({call["id"] for call in told["tool_calls"]}) == 1 + parallel
        assert matches(check(driver.grammars[0], NEW), two) == parallel


def _cities(count: int) -> list[str]:
    return [CALL.replace("Oslo", f"City {number}") for number in range(count)]


@pytest.mark.parametrize(
    "fields, most",
    [({}, 8), ({"max_tool_calls": 3}, 3), ({"max_tool_calls": 10**9}, 128)],
)
def test_number_of_calls_in_an_answer_is_bounded(fields: dict[str, Any], most: int) -> None:
    driver = ScriptPlayer(split_text("\n".join(_cities(most + 2)), 1000))
    fields = {"tools": [WEATHER], "tool_choice": "required", **fields}
    answer = chat(served(driver), **fields)
    assert (len(message(answer)["tool_calls"]), reason(answer)) == (most, "tool_calls")
    grammar = check(driver.grammars[0], NEW)
    assert matches(grammar, "\n".join(_cities(most)))
    assert not matches(grammar, "\n".join(_cities(most + 1)))
    assert driver.runs[0].closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
def test_call_repeated_in_a_row_is_sent_twice_and_others_follow(stream: bool) -> None:
    bergen = CALL.replace("Oslo", "Bergen")
    driver = ScriptPlayer(split_text("\n".join((CALL, CALL, CALL, CALL, bergen))))
    answer = chat(served(driver), tools=[WEATHER], tool_choice="required", stream=stream)
    assert reason(answer) == "tool_calls"
    assert arguments_of(answer) == ['{"city": "Oslo"}'] * 2 + ['{"city": "Bergen"}']


def test_call_cut_by_the_limit_leaves_the_whole_ones_before_it() -> None:
    driver = ScriptPlayer(cut_off(CALL + "\n" + CALL.replace("Oslo", "Bergen")[:-20]))
    answer = chat(served(driver), tools=[WEATHER], tool_choice="required")
    assert arguments_of(answer) == ['{"city": "Oslo"}']
    assert reason(answer) == "tool_calls"


def test_answer_cut_inside_a_call_finishes_with_length() -> None:
    driver = ScriptPlayer(cut_off(CALL[:50]))
    answer = chat(served(driver), tools=[WEATHER], tool_choice="required")
    assert reason(answer) == "length"
    assert message(answer)["tool_calls"][0]["function"]["name"] == "get_weather"


def test_call_format_follows_the_template_or_the_default() -> None:
    folder = Path(__file__).parents[3] / "templates" / "chat"
    for path in sorted(folder.glob("*.jinja")):
        driver = ScriptPlayer(say("Hi"))
        to = served(driver, path.stem)
        chat(to, tools=[WEATHER], tool_choice="required")
        prompt = driver.prompts[0]
        assert "get_weather" in prompt, path.stem
        # The last run: with a thinking model the first one is unconstrained.
        check(driver.grammars[-1], NEW)


def test_legacy_prompt_format_supports_tools() -> None:
    text = '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]}'
    driver = ScriptPlayer(split_text(text))
    answer = chat(served(driver, "legacy"), tools=[WEATHER], tool_choice="required")
    assert arguments_of(answer) == ['{"city": "Oslo"}']
    assert "get_weather" in driver.prompts[0]


# auto: text is unconstrained until a call opens


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("stream", [False, True])
def test_call_opened_in_free_text_continues_under_grammar(stream: bool, size: int) -> None:
    lead = "Let me see.\n"
    first = split_text(lead + "<tool_call>\n{'oops", size)
    rest = '\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    last: list[Batch] = [
        *split_text(rest, size)[:-1],
        [Finished(reason="stop", usage=Usage(17, 20, 16), slot=0)],
    ]
    driver = ScriptPlayer(first, last)
    answer = chat(served(driver), tools=[WEATHER, NOW], stream=stream)
    assert answer.get_data()
    assert driver.grammars[0] == ""
    assert driver.prompts[1] == driver.prompts[0] + lead + "<tool_call>"
    grammar = check(driver.grammars[1], NEW)
    assert matches(grammar, rest)
    assert not matches(grammar, rest.replace("get_weather", "rm"))
    assert driver.runs[0].closed.is_set()
    assert message(answer)["content"] == "Let me see."
    assert arguments_of(answer) == ['{"city": "Oslo"}']
    if not stream:
        # 7 of the prompt; 10 of the first run, which the second run's prompt contains, and 20 more.
        counts = usage(answer)
        assert (counts["prompt_tokens"], counts["completion_tokens"]) == (7, 30)


def test_call_format_without_marker_is_constrained_after_the_name() -> None:
    first = split_text('{"tool_calls": [{"name":"get_weather", "arguments":{"town')
    driver = ScriptPlayer(first, split_text('{"city": "Oslo"}}]}'))
    answer = chat(served(driver, "vicuna"), tools=[WEATHER, NOW])
    begun = '{"tool_calls": [{"name":"get_weather", "arguments":'
    assert driver.prompts[1] == driver.prompts[0] + begun
    assert not matches(check(driver.grammars[1], NEW), '{"town": "Oslo"}}]}')
    assert message(answer)["content"] is None
    assert arguments_of(answer) == ['{"city": "Oslo"}']


QUOTING = (
    "hermes.py looks for `<tool_call>` and then reads JSON.",
    "It writes <tool_call> before each call, and </tool_call> behind it.",
    '```\n<tool_call>\n{"name": "get_weather"}\n</tool_call>\n```\nThat is all.',
    "~~~text\n<tool_call>\n~~~",
    'Before <tool_call>{"name": "get_weather", "arguments": {oops}}</tool_call> it said',
    'Call <tool_call>{"name": "rm", "arguments": {}}</tool_call> is not known.',
    ">>> 1 + 1\n2",
    "3 < 5, <b>bold</b>, and {braces} [TOOL",  # no call at all
)


@pytest.mark.parametrize("text", QUOTING)
@pytest.mark.parametrize("stream", [False, True])
def test_quoted_mark_is_no_call_and_no_word_is_lost(text: str, stream: bool) -> None:
    driver = ScriptPlayer(split_text(text))
    answer = chat(served(driver), tools=[WEATHER], stream=stream)
    assert message(answer)["content"] == text
    assert "tool_calls" not in message(answer)
    assert len(driver.tasks) == 1


def test_whole_call_in_a_sentence_is_a_call() -> None:
    driver = ScriptPlayer(split_text(f"I look it up. {CALL}"))
    answer = chat(served(driver), tools=[WEATHER])
    assert message(answer)["content"] == "I look it up."
    assert arguments_of(answer) == ['{"city": "Oslo"}']
    assert len(driver.tasks) == 1


def test_tool_choice_none_keeps_the_prompt_and_parses_no_calls() -> None:
    driver = ScriptPlayer(split_text(CALL), split_text("Hi"))
    to = served(driver)
    answer = chat(to, tools=[WEATHER], tool_choice="none")
    chat(to, tools=[WEATHER])
    assert message(answer)["content"] == CALL
    assert driver.prompts[0] == driver.prompts[1]


# documents

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


def schema(of: Any, strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": of, "strict": strict}}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": schema(POINT)},
        {"response_format": {"type": "json_object", "schema": POINT}},
        {"json_schema": POINT},
    ],
)
def test_document_is_constrained_by_its_schema(fields: dict[str, Any]) -> None:
    driver = ScriptPlayer(split_text('{"x": 5}'))
    answer = chat(served(driver), **fields)
    assert message(answer)["content"] == '{"x": 5}'
    grammar = check(driver.grammars[0], NEW)
    assert matches(grammar, '{"x":5}')
    assert not matches(grammar, '{"y":5}')


def test_invalid_document_is_retried_once_then_refused() -> None:
    driver = ScriptPlayer(split_text('{"x": "five"}'), split_text('{"x": 5}'))
    answer = chat(served(driver), response_format=schema(POINT), seed=5)
    assert message(answer)["content"] == '{"x": 5}'
    assert usage(answer)["completion_tokens"] == 3 + 5
    assert [task.sampling["seed"] for task in driver.tasks] == [5, 6]
    driver = ScriptPlayer(split_text('{"x": "five"}'))
    told = error(chat(served(driver), response_format=schema(POINT)), 502)
    assert told["code"] == "invalid_output" and "$.x" in told["message"]
    assert len(driver.tasks) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", [schema(POINT), {"type": "json_object"}])
def test_stop_string_ends_a_document(form: dict[str, Any], stream: bool) -> None:
    driver = ScriptPlayer(split_text('{"x": 5, "STOP": 1}'))
    answer = chat(served(driver), response_format=form, stop="STOP", stream=stream)
    assert message(answer)["content"] == '{"x": 5, "'
    assert reason(answer) == "stop"
    assert len(driver.tasks) == 1


def test_document_that_ends_at_a_turn_of_the_template_is_invalid() -> None:
    driver = ScriptPlayer(split_text('{"x": \nUSER: 5}'))
    answer = chat(served(driver, "vicuna"), response_format=schema(POINT), stop="STOP")
    assert answer.status_code == 502


def test_invalid_streamed_document_ends_with_error_event() -> None:
    answer = chat(
        served(ScriptPlayer(split_text('{"x": '))), response_format=schema(POINT), stream=True
    )
    chunks = deltas(answer)
    assert chunks[-1]["error"]["code"] == "invalid_output"
    assert "[DONE]" not in answer.get_data(as_text=True)


def test_document_cut_by_token_limit_finishes_with_length() -> None:
    answer = chat(served(ScriptPlayer(cut_off('{"x": 5'))), response_format=schema(POINT))
    assert answer.status_code == 200
    assert reason(answer) == "length"


def test_schema_beyond_grammars_is_refused_by_keyword_or_validated() -> None:
    odd = {"type": "array", "uniqueItems": True}
    driver = ScriptPlayer(split_text("[1, 5]"))
    assert "uniqueItems" in error(chat(served(driver), response_format=schema(odd)))["message"]
    assert not driver.tasks
    assert message(chat(served(driver), response_format=schema(odd, False)))["content"] == "[1, 5]"
    driver = ScriptPlayer(split_text("[5, 5]"))
    assert chat(served(driver), response_format=schema(odd, False)).status_code == 502


def test_unchecked_pattern_is_reported_in_a_header() -> None:
    odd = {"type": "string", "pattern": "^(?=a)"}
    answer = chat(served(ScriptPlayer(split_text('"b"'))), response_format=schema(odd, False))
    assert message(answer)["content"] == '"b"'
    assert "pattern" in answer.headers["x-slotproxy-warning"]


def test_tools_and_schema_together_allow_calls_or_a_document() -> None:
    both = {"response_format": schema(POINT), "tools": [WEATHER]}
    driver = ScriptPlayer(split_text('{"x": 5}'))
    assert message(chat(served(driver), **both))["content"] == '{"x": 5}'
    grammar = check(driver.grammars[0], NEW)
    assert matches(grammar, CALL) and matches(grammar, '{"x":5}')
    assert not matches(grammar, "Hi")
    answer = chat(served(ScriptPlayer(split_text(CALL))), **both)
    assert message(answer)["content"] is None
    assert reason(answer) == "tool_calls"


def test_client_grammar_is_applied() -> None:
    driver = ScriptPlayer(split_text("yes"))
    to = served(driver)
    assert message(chat(to, grammar='root ::= "yes" | "no"'))["content"] == "yes"
    driver.scripts = [split_text("maybe")]
    assert chat(to, grammar='root ::= "yes" | "no"').status_code == 502
    for other in ({"tools": [WEATHER]}, {"response_format": schema(POINT)}, {"json_schema": POINT}):
        assert error(chat(to, grammar='root ::= "yes"', **other))["param"] == "grammar"


# thoughts


THOUGHTS = "<think>\nTwo and two.\n</think>\n\nFour."


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("form", "content", "thoughts"),
    [
        ("deepseek", "Four.", "Two and two."),
        ("none", THOUGHTS, None),
        ("raw", THOUGHTS, None),
    ],
)
def test_reasoning_format_separates_or_keeps_thoughts(
    form: str, content: str, thoughts: str | None, size: int
) -> None:
    driver = ScriptPlayer(split_text(THOUGHTS, size))
    default = served(driver)
    for answer in (
        chat(served(driver, reasoning_format=form)),
        chat(default, reasoning_format=form),  # the request overrides the setting
        chat(default, reasoning_format=form, stream=True),
    ):
        said = message(answer)
        assert (said["content"], said.get("reasoning_content")) == (content, thoughts)


def test_endless_thoughts_are_closed_before_a_document() -> None:
    driver = ScriptPlayer(split_text("<think>\nHm"), split_text('{"x": 5}'))
    told = message(chat(served(driver, "qwen"), response_format=schema(POINT)))
    assert told["content"] == '{"x": 5}'
    assert driver.prompts[1].endswith("<think>\nHm</think>\n\n")
    thoughts = ScriptPlayer(cut_off("<think>\nHm"))
    answer = chat(served(thoughts, "qwen"), response_format=schema(POINT))
    assert reason(answer) == "length"
    assert message(answer)["reasoning_content"] == "Hm"


def test_call_after_thoughts_is_parsed() -> None:
    thought = "<think>\nI call <tool_call> now.\n</think>\n\n"
    first = split_text(thought + "Well.\n<tool_call>\n{")
    driver = ScriptPlayer(first, split_text('\n{"name": "now", "arguments": {}}\n</tool_call>'))
    told = message(chat(served(driver, "qwen"), tools=[NOW]))
    assert told["reasoning_content"] == "I call <tool_call> now."
    assert told["content"] == "Well."
    assert told["tool_calls"][0]["function"]["name"] == "now"
    assert driver.prompts[1] == driver.prompts[0] + thought + "Well.\n<tool_call>"


def test_reasoning_effort_and_template_kwargs_reach_the_template() -> None:
    driver = ScriptPlayer(say("Hi"))
    path = Path(__file__).parent / "effort.jinja"
    to = served(driver, str(path))
    chat(to, reasoning_effort="low", chat_template_kwargs={"colour": "red"})
    assert driver.prompts[0].strip() == "low True red Hi"
    chat(to, reasoning_effort="none")
    assert driver.prompts[1].strip() == "False  Hi"


# tools: other behaviour


def test_unknown_tool_types_are_skipped_with_a_warning() -> None:
    driver = ScriptPlayer(say("Hi"))
    answer = chat(served(driver), tools=[{"type": "web_search", "x": 1}, NOW])
    assert answer.headers["x-slotproxy-warning"] == "tools of type web_search are ignored"
    assert "web_search" not in driver.prompts[0]


def test_stop_strings_apply_to_text_but_not_to_call_arguments() -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "STOP"}}\n</tool_call>'
    driver = ScriptPlayer(split_text(call))
    fields = {"tools": [WEATHER], "stop": ["STOP"]}
    answer = chat(served(driver), tool_choice="required", **fields)
    assert arguments_of(answer) == ['{"city": "STOP"}']
    driver = ScriptPlayer(split_text("Before STOP <tool_call>"))
    answer = chat(served(driver), **fields)
    assert message(answer)["content"] == "Before "
    assert reason(answer) == "stop"
    assert len(driver.tasks) == 1


def test_each_of_n_choices_has_its_own_calls() -> None:
    driver = ScriptPlayer(split_text(CALL))
    answer = chat(served(driver), tools=[WEATHER], tool_choice="required", n=3)
    choices = answer.json["choices"]
    ids = {choice["message"]["tool_calls"][0]["id"] for choice in choices}
    assert len(ids) == 3
    assert {choice["finish_reason"] for choice in choices} == {"tool_calls"}


def test_logprobs_cover_text_but_not_calls() -> None:
    def token(text: str) -> TextDelta:
        return TextDelta(text, (TokenLogprob(text, -0.5, text.encode(), (TokenLogprob("x", -1),)),))

    pieces = ["Let", " me", " see", "\n<tool", "_call>", "x"]
    first: list[Batch] = [[Started(slot=0)]]
    first += [[token(p)] for p in pieces]
    rest = '\n{"name": "now", "arguments": {}}\n</tool_call>'
    second: list[Batch] = [
        [Started(slot=0)],
        [token(rest)],
        [Finished(reason="stop", usage=Usage(9, 9))],
    ]
    answer = chat(served(ScriptPlayer(first, second)), tools=[NOW], logprobs=True)
    assert message(answer)["content"] == "Let me see"
    assert answer.json is not None
    told = answer.json["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in told] == ["Let", " me", " see"]


def test_legacy_functions_client_gets_function_call() -> None:
    functions = [{"name": "get_weather", "parameters": CITY}]
    fields = {"functions": functions, "function_call": {"name": "get_weather"}}
    answer = chat(served(ScriptPlayer(split_text(CALL))), **fields)
    told = message(answer)
    assert told["function_call"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert "tool_calls" not in told
    assert reason(answer) == "function_call"
    answer = chat(served(ScriptPlayer(split_text(CALL))), **fields, stream=True)
    pieces = [c["choices"][0]["delta"].get("function_call") for c in deltas(answer)]
    first, *rest = filter(None, pieces)
    assert first["name"] == "get_weather"
    assert "".join(piece["arguments"] for piece in (first, *rest)) == '{"city": "Oslo"}'
    assert reason(answer) == "function_call"


def test_legacy_function_messages_parse_as_tool_messages() -> None:
    called = {"name": "now", "arguments": "{}"}
    call = {"id": "call_1", "type": "function", "function": called}
    older = {"function_call": called}, {"role": "function", "name": "now"}
    newer = {"tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "name": "now"}
    driver = ScriptPlayer(say("It is noon."))
    for calling, result in (older, newer):
        history = {"role": "assistant", "content": None, **calling}, {**result, "content": "noon"}
        chat(served(driver), messages=[*USER, *history], tools=[NOW])
    assert driver.prompts[0] == driver.prompts[1]
    assert "noon" in driver.prompts[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": function(name="x")}, "tool_choice"),
        ({"tools": [NOW, NOW]}, "tools[1].function.name"),
        ({"tools": [function(name='a"b')]}, "tools[0].function.name"),
        ({"tools": [function()]}, "tools[0].function.name"),
        ({"tools": [NOW], "functions": [{"name": "x"}]}, "functions"),
        ({"tools": [function(name="x", parameters={"type": "no"})]}, "tools"),
        ({"response_format": schema({"type": "no"})}, "response_format"),
        ({"response_format": schema({"$ref": "#/nowhere"})}, "response_format"),
        ({"response_format": schema(POINT), "json_schema": POINT}, "response_format"),
        ({"json_schema": 5}, "json_schema"),
        ({"reasoning_format": "loud"}, "reasoning_format"),
    ],
)
def test_invalid_tool_and_schema_options_are_400_before_any_backend(
    fields: dict[str, Any], param: str
) -> None:
    driver = ScriptPlayer(say("Hi"))
    answer = chat(served(driver), **fields)
    assert error(answer)["param"] == param
    assert not driver.tasks
