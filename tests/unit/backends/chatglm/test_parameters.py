"""Sampling in the library's terms, and what it cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.chatglm.parameters import LACKS, Sampling, check, sampling
from proxy.core.invalid import Invalid
from proxy.core.request import CompletionRequest, Message, OutputFormat, Tool, ToolChoice
from proxy.core.sampling import FIELDS
from proxy.core.task import Task
from proxy.errors import Unsupported

TOOLS = (Tool("f"), Tool("g"))


def of(lenient: bool = False, **fields: Any) -> Sampling:
    return sampling(Task(prompt="", sampling=fields), lenient)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Sampling(0.95, 0.7, 0, 1.0)),
        ({"temperature": 0}, Sampling(0.0, 0.7, 0, 1.0)),
        ({"temperature": 1e-9}, Sampling(0.0, 0.7, 0, 1.0)),
        ({"top_p": 0}, Sampling(0.0, 0, 0, 1.0)),
        (
            {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1},
            Sampling(1.5, 0.9, 40, 1.1),
        ),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, Sampling(0.95, 0.7, 0, 1.0)),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, Sampling(0.95, 0.7, 0, 1.1)),
        ({"repeat_last_n": 64}, Sampling(0.95, 0.7, 0, 1.0)),
        ({"cache_prompt": False}, Sampling(0.95, 0.7, 0, 1.0)),
    ],
)
def test_what_is_honoured(fields: dict[str, Any], expected: Sampling) -> None:
    assert of(**fields) == expected


@pytest.mark.parametrize("name", sorted(LACKS))
def test_what_changes_nothing_passes(name: str) -> None:
    for value in FIELDS[name].neutral:
        assert of(**{name: value}) == of()


@pytest.mark.parametrize(
    ("name", "value"),
    [("samplers", ["top_k"]), ("t_max_predict_ms", 5), ("n_indent", 4), ("min_p", 0.1)],
)
def test_hints_pass(name: str, value: Any) -> None:
    assert of(**{name: value}) == of()
    assert name in LACKS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 7),
        ("logit_bias", [[1, 2.0]]),
        ("grammar", 'root ::= "a"'),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("typical_p", 0.5),
        ("mirostat", 2),
        ("ignore_eos", True),
        ("xtc_probability", 0.5),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        of(**{name: value})
    assert caught.value.param == name
    assert of(lenient=True, **{name: value}) == of()


def test_a_window_of_the_penalty_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        of(repeat_penalty=1.2, repeat_last_n=64)
    assert caught.value.param == "repeat_last_n"


def test_a_penalty_the_library_fails_at_is_invalid() -> None:
    with pytest.raises(Invalid):
        of(repeat_penalty=0)


def test_what_else_is_refused() -> None:
    chat = (Message("user", "u"),)
    cases = {
        "suffix": Task(prompt="a", suffix="b"),
        "logprobs": Task(prompt="a", logprobs=0),
        "response_format": Task(
            prompt="", request=CompletionRequest(messages=chat, output=OutputFormat("json_object"))
        ),
        "tool_choice": Task(
            prompt="",
            request=CompletionRequest(
                messages=chat, tools=TOOLS, tool_choice=ToolChoice("required")
            ),
        ),
    }
    for param, task in cases.items():
        with pytest.raises(Unsupported) as caught:
            check(task, "chatglm3", lenient=False)
        assert caught.value.param == param
    del cases["suffix"]  # an infill is no completion: nothing to answer with
    for task in cases.values():
        check(task, "chatglm3", lenient=True)


def test_one_tool_can_be_required() -> None:
    request = CompletionRequest(
        messages=(Message("user", "u"),), tools=TOOLS[:1], tool_choice=ToolChoice("required")
    )
    check(Task(prompt="", request=request), "chatglm3", lenient=False)
