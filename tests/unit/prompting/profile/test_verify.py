"""Which requests are of a kind, and what a comparison of two prompts means."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from proxy.core.request import CompletionRequest, Message, Tool, ToolCall, ToolChoice
from proxy.prompting.profile.verify import (
    KINDS,
    UNKNOWN,
    Outcome,
    compared,
    kinds_of,
    our_prompts,
    outcome_of,
    verdict,
)
from proxy.prompting.prompt import Prompter
from proxy.prompting.template import templates

NOW = datetime(2026, 7, 26, 12)
NAMES = [kind.name for kind in KINDS]
CALL = ToolCall("1", "f", "{}")
TOOLS = (Tool("f"),)


def said(role: Any, content: str = "x", **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


USER, SYSTEM, ANSWER = said("user"), said("system"), said("assistant")
CALLS, RESULT = said("assistant", tool_calls=(CALL,)), said("tool", tool_call_id="1")


def kinds(*messages: Message, **fields: Any) -> set[str]:
    found = kinds_of(CompletionRequest(messages=messages, **fields), NAMES)
    assert "plain" in found
    return {*found} - {"plain"}


def test_kinds_of_requests() -> None:
    assert kinds(USER) == set()
    assert kinds(SYSTEM, USER) == {"system"}
    assert kinds(SYSTEM, SYSTEM, USER) == {"system"}
    assert kinds(USER, SYSTEM) == {"late system"}
    assert kinds(USER, ANSWER, USER) == {"history"}
    assert kinds(USER, USER) == {"two users in a row"}
    assert kinds(said("user", "a\nb", parts=(0, 2))) == {"text parts"}
    assert kinds(USER, ANSWER) == {"begun answer"}
    results = {"history", "results of tools"}
    assert kinds(USER, CALLS, RESULT) == results
    assert kinds(USER, CALLS, RESULT, tools=TOOLS) == {*results, "tools"}
    assert kinds(USER, CALLS, RESULT, USER) == {*results, "question after results"}
    twice = said("assistant", tool_calls=(CALL, CALL))
    assert kinds(USER, twice, RESULT) == {*results, "two calls in a turn"}
    thought = said("assistant", reasoning="Hm.")
    assert kinds(USER, thought, USER) == {"history", "kept reasoning"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": TOOLS, "tool_choice": ToolChoice("none")}, set()),
        ({"reasoning_effort": "high"}, {"effort"}),
        ({"template_kwargs": {"reasoning_effort": "low"}}, {"effort"}),
        ({"reasoning_effort": "none"}, {"thinking off"}),
        ({"template_kwargs": {"enable_thinking": False}}, {"thinking off"}),
        ({"template_kwargs": {"enable_thinking": True, "other": 1}}, set()),
    ],
)
def test_kinds_by_the_fields_of_a_request(fields: dict[str, Any], expected: set[str]) -> None:
    assert kinds(USER, **fields) == expected


def test_every_probe_is_of_its_kind() -> None:
    for kind in KINDS:
        for probe in kind.probes:
            assert kind.name in kinds_of(probe, NAMES)
    assert len(set(NAMES)) == len(NAMES) >= 12


PROBE = CompletionRequest(
    messages=(
        said("system", "Deneb"),
        said("user", "Altair"),
        said("assistant", "", tool_calls=(ToolCall("1", "find", '{"name": "Elnath"}'),)),
        said("tool", "Fomalhaut", tool_call_id="1"),
    ),
    tools=(Tool("describe"),),
)
ALL = "describe Deneb Altair find Elnath Fomalhaut"


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        ({ALL}, ALL, "same"),
        ({ALL, "another day"}, ALL, "same"),
        ({ALL}, None, "refused"),
        (set(), None, "refused"),
        (set(), ALL, "differs"),  # what the server takes is not refused
        ({ALL}, f"{ALL} ", "differs"),
        ({ALL}, ALL.replace("Deneb", ""), "adapted"),
        ({ALL}, ALL.replace("Elnath", ""), "adapted"),
        ({ALL}, ALL.replace("describe", ""), "adapted"),
        ({ALL.replace("Deneb", "")}, ALL, "differs"),
        ({ALL.replace("Deneb", "")}, ALL.replace("Deneb", " "), "differs"),
    ],
)
def test_outcome_of_two_prompts(ours: set[str], theirs: str | None, outcome: str) -> None:
    assert compared(PROBE, ours, theirs) == outcome


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["same", "same"], "same"),
        (["same", "adapted"], "adapted"),
        (["same", "differs"], "differs"),
        (["differs", "refused", "same"], "refused"),
        (["differs", "adapted"], "adapted"),
    ],
)
def test_kind_stays_here_if_the_server_refuses_or_loses_a_part(
    outcomes: list[Outcome], worst: Outcome
) -> None:
    assert outcome_of(outcomes) == worst


def test_request_that_the_server_would_refuse_or_cut_stays_here() -> None:
    outcomes: dict[str, Outcome] = {"plain": "same", "history": "differs", "late system": "refused"}
    found = verdict({**outcomes, "results of tools": "adapted"})
    assert (found.differing, found.kept) == (("history",), ("late system", "results of tools"))
    for messages, expected in (
        ((USER,), ()),
        ((USER, ANSWER, USER), ("history",)),
        ((USER, ANSWER, SYSTEM, USER), ()),
        ((USER, CALLS, RESULT), ()),
    ):
        assert found.server_kinds(CompletionRequest(messages=messages)) == expected
    assert UNKNOWN.server_kinds(CompletionRequest(messages=(USER,))) == ()


def prompts(template: str, **fields: Any) -> frozenset[str] | None:
    request = CompletionRequest(messages=(said("user", "Hi"),), **fields)
    return our_prompts(Prompter(templates.compile(template, "m")), request, NOW)


def test_prompts_of_the_days_around_count() -> None:
    """A server may be in another time zone."""
    found = prompts("<|im_start|>{{ strftime_now('%d') }} {{ messages[0].content }}")
    assert found == {f"<|im_start|>{day} Hi" for day in (25, 26, 27)}


def test_refusing_template_has_no_prompts() -> None:
    assert prompts("{{ raise_exception('no') }}") == frozenset()


def test_tools_in_our_own_words_are_not_compared() -> None:
    assert prompts("{{ messages[0].content }}", tools=TOOLS) is None
    assert prompts("{{ tools }}{{ messages[0].content }}", tools=TOOLS) is None  # unknown family
