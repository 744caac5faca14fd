"""llama.cpp's own cases of what a model writes with a template, and the message that it means.

Each case is played through the whole program: the model's text comes from a scripted driver, as an
old server whose template is told by ``--chat-template FILE`` and as a new one that reports it,
whole and in pieces. White space around the parts of a message is not compared: it belongs to the
format. Where a run has a grammar, that must admit the rest of the model's text.

``pytest -rP`` prints the cases that are not right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.backends.driver import Capabilities
from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.gbnf import NEW, OLD, check
from proxy.gbnf.check import states_after
from proxy.runtime.cancel import Cancel
from tests import thorough
from tests.fakes import CAPS, ScriptedDriver, ScriptedRun, make_app
from tools import chat_cases, servers

Case = Mapping[str, Any]
pytestmark = pytest.mark.slow  # all cases of llama.cpp

RIGHT = 0.97
WHOLE = 0
SIZES = (1, 3, 8)  # characters of a piece
EVERY_SIZE = 40  # one case of so many is cut in pieces of every size
ROOM = 1_000_000  # tokens of context
USAGE = Usage(7, 3, 0)
# An old server notices late that a stream was closed, so its slot rests; others are free.
OLD_CAPS = msgspec.structs.replace(CAPS, n_ctx=ROOM, slots=256)
NEW_CAPS = msgspec.structs.replace(
    OLD_CAPS, dialect="llama-server", modern_sampling=True, queues=True
)


def _raw(case: Case) -> bool:
    opened = case["generation_prompt"].rstrip().endswith("<think>")
    return bool(case["reasoning_format"] == 0 and opened)


OTHERWISE: Mapping[str, Callable[[Case], bool]] = {
    "reasoning_format none has the same lines around <think> and </think> for all models": _raw,
    "a document is bound by a grammar from its first character: it has no code fence": (
        lambda case: bool(case["json_schema"]) and "```" in case["input"]
    ),
    "a call without the beginning of its arguments cannot be made, so it is none": (
        lambda case: case["partial"] and any(not call["arguments"] for call in case["calls"])
    ),
    "text of the prompt is no reasoning": (
        lambda case: case["reasoning"].startswith("Here are my reasoning steps:\n")
    ),
    "the tag that a model repeats after its prompt is no reasoning": (
        lambda case: case["reasoning"].startswith("<think>")
    ),
    "the token that a model repeats after its prompt stays": (
        lambda case: case["input"].startswith("<|CHATBOT_TOKEN|>")
    ),
}
MOST_OTHERWISE = 24

FORBIDDEN: Mapping[str, Callable[[Case], bool]] = {
    "a required call is the whole answer": (
        lambda case: case["tool_choice"] == 1 and bool(case["content"])
    ),
    "a document has no code fence": lambda case: "```json" in case["input"],
    "nothing follows the calls": lambda case: bool(
        case["calls"] and re.search(r"</tool_call>\s*\w", case["input"])
    ),
    "nested JSON has no white space behind a brace": lambda case: '{ "real"' in case["input"],
}


class Player(ScriptedDriver):
    """A model that writes a text, in pieces of so many characters, up to an end token. A later run
    continues behind what the prompt has of the text already."""

    def __init__(self, caps: Capabilities) -> None:
        super().__init__(caps=caps)
        self.forbidden = ""
        self._limits = NEW if caps.modern_sampling else OLD

    def plays(self, case: Case, size: int) -> None:
        self._case, self._size = case, size
        self.forbidden = ""
        self.tasks.clear()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.tasks.append(task)
        assert not task.backend_templates, "rendered by slotproxy"
        begun = str(task.prompt).removeprefix(str(self.tasks[0].prompt))
        text = behind(self._case["input"], begun)
        for stop in task.stop_tokens:
            text = text.partition(stop)[0]
        if grammar := task.sampling.get("grammar"):
            self._judge(grammar, text)
        self.runs.append(ScriptedRun(list(self._batches(text))))
        return self.runs[-1]

    def _batches(self, text: str) -> Iterator[Batch]:
        yield [Started(slot=0)]
        size = self._size or max(1, len(text))
        for at in range(0, len(text), size):
            yield [TextDelta(text[at : at + size], (), 1)]
        yield [Finished(reason="length" if self._case["partial"] else "stop", usage=USAGE)]

    def _judge(self, grammar: str, text: str) -> None:
        # The mark behind a document ends the turn.
        said = text.rstrip().removesuffix("<|END_TEXT|>")
        if not states_after(check(grammar, self._limits), said):
            self.forbidden = f"{text!r} under\n{grammar}"


def behind(text: str, begun: str) -> str:
    """What follows the beginning of a text, which may have other white space. A beginning that
    slotproxy wrote for the model counts up to its last mark."""
    at = 0
    for char in begun:
        if char.isspace():
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text) or text[at] != char:
            mark = re.search(r"<[^<>]*>\s*\Z", begun)
            return text.rpartition(mark[0].strip())[2] if mark else ""
        at += 1
    return text[at:].lstrip() if begun[-1:].isspace() else text[at:]


@cache
def _folder() -> Path | None:
    binary = servers.find("llama-2026")
    return binary.parent if binary and (binary.parent / chat_cases.CASES).is_file() else None


@cache
def _cases() -> tuple[Case, ...]:
    folder = _folder()
    if folder is None:
        return ()
    # Beginnings of answers are a matter of the prompt.
    cases = [case for case in chat_cases.read(folder) if not case["continues"]]
    return tuple(cases[:: 1 if thorough.ALL else 3])


@pytest.fixture(scope="module")
def cases() -> tuple[Case, ...]:
    if not _cases():
        if thorough.ALL:
            pytest.fail("tools.servers build llama-2026 writes the cases")
        pytest.skip("the cases come with the server of 2026")
    return _cases()


Apps = Callable[[Case], tuple[Player, FlaskClient]]


@pytest.fixture(scope="module", params=["old", "new"])
def app(request: pytest.FixtureRequest, cases: Sequence[Case]) -> Apps:
    """The program for a case's template, on a server of that kind."""
    folder = _folder()
    assert folder is not None
    made: dict[str, tuple[Player, FlaskClient]] = {}
    for name in {_template(case) for case in cases}:
        template = folder / chat_cases.TEMPLATES / name
        if request.param == "old":
            player = Player(OLD_CAPS)
            made[name] = player, make_app(player, chat_template=str(template)).test_client()
        else:
            source = template.read_text("utf-8")
            player = Player(msgspec.structs.replace(NEW_CAPS, template=source))
            made[name] = player, make_app(player).test_client()
    return lambda case: made[_template(case)]


def _template(case: Case) -> str:
    return str(case["template"]).rpartition("/")[2]


def body(case: Case) -> dict[str, Any]:
    """The chat of a case."""
    fields: dict[str, Any] = {
        "messages": case["messages"],
        "max_tokens": ROOM // 2,
        "chat_template_kwargs": {"enable_thinking": case["thinking"]},
    }
    if case["tools"]:
        fields["tools"] = case["tools"]
        fields["tool_choice"] = ("auto", "required", "none")[case["tool_choice"]]
        fields["parallel_tool_calls"] = case["parallel"]
    if case["json_schema"]:
        schema = {"name": "x", "schema": json.loads(case["json_schema"])}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if case["reasoning_format"] == 0:
        fields["reasoning_format"] = "none"
    return fields


def wrong(case: Case, size: int, player: Player, client: FlaskClient) -> str:
    """The difference from the expectation of the case, "" for none."""
    player.plays(case, size)
    # Not json=: Flask sorts the members of objects.
    answer = client.post(
        "/v1/chat/completions", data=json.dumps(body(case)), content_type="application/json"
    )
    if answer.status_code != 200:
        return answer.get_data(as_text=True)
    message = answer.get_json()["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    said = _comparable(case, message.get("content"), message.get("reasoning_content"), calls)
    meant = _comparable(case, case["content"], case["reasoning"], case["calls"])
    return "" if said == meant else f"{said} instead of {meant}"


def _comparable(
    case: Case, content: str | None, reasoning: str | None, calls: Sequence[Mapping[str, str]]
) -> tuple[str, str, list[tuple[str, Any]]]:
    def arguments(text: str) -> Any:
        try:
            return json.loads(text or "{}")
        except ValueError:
            assert case["partial"]
            return re.sub(r"\s", "", text)

    return (
        (content or "").strip(),
        (reasoning or "").strip(),
        [(call["name"], arguments(call["arguments"])) for call in calls],
    )


def _otherwise(case: Case, reasons: Mapping[str, Callable[[Case], bool]]) -> bool:
    return any(applies(case) for applies in reasons.values())


def _about(case: Case) -> str:
    return f"{_template(case)}: {case['input']!r}"


def test_models_texts_mean_the_messages_that_llama_cpp_reads(
    cases: Sequence[Case], app: Apps
) -> None:
    sizes = (WHOLE, *SIZES) if thorough.ALL else (WHOLE, SIZES[0])
    misses, count, others = [], 0, 0
    for case in cases:
        if _otherwise(case, OTHERWISE):
            others += 1
            continue
        for size in sizes:
            count += 1
            if fault := wrong(case, size, *app(case)):
                misses.append(f"{_about(case)}, size {size}: {fault}")
    print(f"{len(misses)} of {count} misses\n" + "\n".join(misses))
    assert others <= MOST_OTHERWISE
    assert len(misses) <= (1 - RIGHT) * count, "\n".join(misses)


def test_message_does_not_depend_on_the_pieces(cases: Sequence[Case], app: Apps) -> None:
    for case in cases[::EVERY_SIZE]:
        whole = wrong(case, WHOLE, *app(case))
        for size in range(1, len(case["input"])):
            assert wrong(case, size, *app(case)) == whole, (_about(case), size)


def test_no_grammar_forbids_a_models_own_calls(cases: Sequence[Case], app: Apps) -> None:
    bound, faults = 0, []
    for case in cases:
        if _otherwise(case, FORBIDDEN):
            continue
        player, client = app(case)
        wrong(case, WHOLE, player, client)
        bound += any(task.sampling.get("grammar") for task in player.tasks)
        if player.forbidden:
            faults.append(f"{_about(case)}: {player.forbidden}")
    assert not faults, "\n\n".join(faults)
    assert bound > len(cases) // 3
