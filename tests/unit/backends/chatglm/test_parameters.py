"""Sampling parameters of the library, and unsupported ones."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.chatglm.driver import LACKS, check, sampling
from proxy.core.request import CompletionRequest, Message, OutputFormat, Tool, ToolChoice
from proxy.core.sampling import FIELDS
from proxy.core.task import Task
from proxy.errors import InvalidParameter, Unsupported

TOOLS = (Tool("f"), Tool("g"))


def of(**fields: Any) -> tuple[float, ...]:
    values = sampling(Task(prompt="", sampling=fields))
    names = ("temperature", "top_p", "top_k", "repeat_penalty")
    return tuple(values[name] for name in names)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.95, 0.7, 0, 1.0)),
        ({"temperature": 0}, (0.0, 0.7, 0, 1.0)),
        ({"temperature": 1e-9}, (0.0, 0.7, 0, 1.0)),
        ({"top_p": 0}, (0.0, 0, 0, 1.0)),
        (
            {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1},
            (1.5, 0.9, 40, 1.1),
        ),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, (0.95, 0.7, 0, 1.0)),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, (0.95, 0.7, 0, 1.1)),
        ({"repeat_last_n": 64}, (0.95, 0.7, 0, 1.0)),
        ({"cache_prompt": False}, (0.95, 0.7, 0, 1.0)),
    ],
)
def test_supported_parameters_are_passed(fields: dict[str, Any], expected: object) -> None:
    assert of(**fields) == expected


@pytest.mark.parametrize("name", sorted(LACKS))
def test_parameters_without_effect_are_accepted(name: str) -> None:
    for value in FIELDS[name].neutral:
        assert of(**{name: value}) == of()


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
        ("repeat_last_n", 64),  # a window of the penalty
    ],
)
def test_unsupported_parameters_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        of(**{"repeat_penalty": 1.2, name: value})
    assert caught.value.param == name


def test_penalty_that_crashes_the_library_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        of(repeat_penalty=0)


@pytest.mark.parametrize(
    ("param", "fields", "asked"),
    [
        ("suffix", {"suffix": "b"}, {}),
        ("logprobs", {"logprobs": 0}, {}),
        ("response_format", {}, {"output": OutputFormat("json_object")}),
        ("tool_choice", {}, {"tools": TOOLS, "tool_choice": ToolChoice("required")}),
    ],
)
def test_other_unsupported_fields_are_refused(
    param: str, fields: dict[str, Any], asked: dict[str, Any]
) -> None:
    request = CompletionRequest(messages=(Message(role="user", content="u"),), **asked)
    with pytest.raises(Unsupported) as caught:
        check(Task(prompt="a", request=request, **fields), "chatglm3")
    assert caught.value.param == param
