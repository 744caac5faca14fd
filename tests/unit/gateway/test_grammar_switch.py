"""The start of a second run does not depend on how tokens of the first are batched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.driver import Capabilities
from proxy.core.events import Batch, Finished, FinishReason, Started, TextDelta
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import BackendFailed
from proxy.gbnf import NEW, check, matches
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, ScriptedRun, make_app

PROMPT = 7
SCHEMA = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}
DOCUMENT = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
    }
}
NOW = {"type": "function", "function": {"name": "now"}}
MODERN = msgspec.structs.replace(CAPS, dialect="llama-server", modern_sampling=True, queues=True)


class TwoRuns(ScriptedDriver):
    """First free text in the given batches, then constrained text. A token is a character."""

    def __init__(self, caps: Capabilities) -> None:
        super().__init__(caps=caps)
        self.slots: list[int] = []

    def plays(self, free: Sequence[Batch], bound: str) -> None:
        self._free, self._bound = free, bound
        self.tasks.clear()
        self.slots.clear()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.tasks.append(task)
        self.slots.append(slot)
        script = self._free
        if len(self.tasks) > 1:
            extra = len(str(task.prompt)) - len(str(self.tasks[0].prompt))
            usage = Usage(PROMPT + extra, len(self._bound), PROMPT)
            script = [
                [Started(slot=0)],
                [TextDelta(self._bound)],
                [Finished(reason="stop", usage=usage)],
            ]
        self.runs.append(ScriptedRun(script))
        return self.runs[-1]


def batches(text: str, cuts: Sequence[int], reason: FinishReason, end_apart: bool) -> list[Batch]:
    """The text as batches, split at `cuts`, each one delta of as many tokens as characters, like a
    driver's. The end is in the last batch, or in its own with `end_apart`."""
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    out: list[Batch] = [[TextDelta(piece, (), len(piece))] for piece in pieces]
    out[0].insert(0, Started(slot=0))
    last = Finished(reason=reason, usage=Usage(PROMPT, len(text), 0), slot=0)
    if end_apart:
        out.append([last])
    else:
        out[-1].append(last)
    return out


class Served:
    """A gateway with one driver, for many examples."""

    def __init__(self, template: str, caps: Capabilities = MODERN) -> None:
        self.driver = TwoRuns(caps)
        self._client = make_app(self.driver, chat_template=template).test_client()

    def chat(self, free: Sequence[Batch], bound: str, **fields: Any) -> dict[str, Any]:
        self.driver.plays(free, bound)
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        answer = self._client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        found: dict[str, Any] | None = answer.json
        assert found is not None
        return found

    def kept(self) -> str:
        """The text that the second run continues, without the prompt."""
        first, second = self.driver.tasks
        return str(second.prompt).removeprefix(str(first.prompt))

    def budget(self) -> int:
        return self.driver.tasks[1].max_tokens or 0


@pytest.fixture(scope="module")
def thinking() -> Served:
    return Served("qwen")


@pytest.fixture(scope="module")
def calling() -> Served:
    return Served("hermes")


THOUGHT = "<think>\nHm.\n</think>"
FREE = THOUGHT + "\nSure! The x is"
SPLITS: Any = st.lists(st.integers(1, len(FREE)), max_size=6)
REASONS: Any = st.sampled_from(["stop", "length"])


@given(SPLITS, REASONS, st.booleans())
def test_document_after_thoughts_is_constrained_for_any_batching(
    thinking: Served, cuts: list[int], reason: FinishReason, end_apart: bool
) -> None:
    free = batches(FREE, cuts, reason, end_apart)
    answer = thinking.chat(free, '{"x":1}', max_tokens=len(FREE), **DOCUMENT)
    message = answer["choices"][0]["message"]
    assert json.loads(message["content"]) == {"x": 1}
    assert message["reasoning_content"] == "Hm."
    assert answer["choices"][0]["finish_reason"] == "stop"
    kept = THOUGHT + "\n\n"
    assert thinking.kept() == kept
    first, second = (task.sampling.get("grammar", "") for task in thinking.driver.tasks)
    assert not first and matches(check(str(second), NEW), '{"x":1}')
    # Text of the last batch after the thoughts is discarded and does not count against the budget.
    assert len(FREE) - len(kept) <= thinking.budget() <= len(FREE) - len(THOUGHT)
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(kept) + len('{"x":1}')
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] <= len(kept)


@given(SPLITS, REASONS, st.booleans())
def test_free_text_without_thoughts_is_not_used_as_document(
    thinking: Served, cuts: list[int], reason: FinishReason, end_apart: bool
) -> None:
    text = "Sure! Here it is"
    free = batches(text, cuts, reason, end_apart)
    answer = thinking.chat(free, '{"x":2}', max_tokens=len(text), **DOCUMENT)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"x": 2}
    assert thinking.kept() == ""
    assert thinking.budget() == len(text)


@pytest.mark.parametrize("text", ["<thi", "  ", THOUGHT[:-3]])
@pytest.mark.parametrize("end_apart", [False, True])
def test_budget_spent_on_thoughts_finishes_with_length_and_no_text(
    thinking: Served, text: str, end_apart: bool
) -> None:
    free = batches(text, [], "length", end_apart)
    answer = thinking.chat(free, '{"x":2}', max_tokens=len(text), **DOCUMENT)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert not answer["choices"][0]["message"]["content"]
    assert len(thinking.driver.tasks) == 1


CALLING = "Let me see.\n<tool_call>\n{'oops, this is no call"


@given(st.lists(st.integers(1, len(CALLING)), max_size=6), REASONS, st.booleans())
def test_call_in_free_text_is_constrained_for_any_batching(
    calling: Served, cuts: list[int], reason: FinishReason, end_apart: bool
) -> None:
    free = batches(CALLING, cuts, reason, end_apart)
    bound = '\n{"name": "now", "arguments": {}}\n</tool_call>'
    answer = calling.chat(free, bound, max_tokens=len(CALLING), tools=[NOW])
    message = answer["choices"][0]["message"]
    assert message["content"] == "Let me see."
    assert message["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    assert calling.budget() == len(CALLING) - len(calling.kept())


@pytest.mark.parametrize("stream", [False, True])
def test_error_after_last_token_is_raised(stream: bool) -> None:
    """A connection lost there loses nothing and means "length"; an error stays an error."""
    driver = ScriptedDriver(
        [[Started(slot=0)], [TextDelta("ab", (), 2)], BackendFailed("it broke")]
    )
    to = make_app(driver).test_client()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": stream}
    answer = to.post("/v1/chat/completions", json=body)
    text = answer.get_data(as_text=True)
    assert answer.status_code == (200 if stream else 502)
    assert "it broke" in text
    assert '"length"' not in text


def test_second_run_goes_to_the_slot_of_the_first_that_came_whole() -> None:
    served = Served("qwen", msgspec.structs.replace(MODERN, ram_cache=True))  # chooses its slots
    served.chat(batches(FREE, (), "stop", end_apart=False), '{"x":1}', **DOCUMENT)
    assert served.driver.slots == [-1, 0]
