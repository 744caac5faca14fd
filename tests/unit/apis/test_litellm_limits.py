"""Limits and budgets in the fields of LiteLLM and our own."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.accounts.limits import Budget, Limits, Window
from proxy.accounts.rights import Rights
from proxy.apis.litellm import rights
from proxy.errors import InvalidParameter

WHOLE: dict[str, Any] = {
    "rpm_limit": 60,
    "tpm_limit": 5000,
    "limits": {"requests": {"hour": 100, "minute": 7}, "prompt_tokens": {"month": 10**9}},
    "model_rpm_limit": {"qwen*": 10, "tiny": 0},
    "model_tpm_limit": {"tiny": 900},
    "model_limits": {"qwen*": {"tokens": {"day": 5}, "requests": {"minute": 99}}},
    "max_parallel_requests": 4,
    "max_queued_requests": 0,
    "max_prompt_tokens": 4096,
    "max_completion_tokens": 512,
    "max_budget": 20,
    "soft_budget": 15.5,
    "budget_duration": "30d",
    "budget_limits": [{"unit": "slot_seconds", "max_budget": 3600, "budget_duration": "1d"}],
}


def test_all_fields_are_read() -> None:
    assert rights.parse_limits(WHOLE, Limits()) == Limits(
        windows=(
            Window("prompt_tokens", "month", 10**9),
            Window("requests", "hour", 100),
            Window("requests", "minute", 60),
            Window("tokens", "minute", 5000),
            Window("requests", "minute", 10, "qwen*"),
            Window("tokens", "day", 5, "qwen*"),
            Window("requests", "minute", 0, "tiny"),
            Window("tokens", "minute", 900, "tiny"),
        ),
        parallel=4,
        queued=0,
        prompt=4096,
        answer=512,
        budget=Budget(most=20, soft=15.5, period="month"),
        budgets=(Budget(unit="slot_seconds", most=3600, period="day"),),
    )


def test_shown_limits_can_be_sent_again() -> None:
    known = rights.parse_limits(WHOLE, Limits())
    assert rights.parse_limits(rights.shown_limits(known), Limits()) == known


def test_a_key_without_limits_shows_none() -> None:
    shown = rights.shown_limits(Limits())
    assert not any(shown.values())


def test_absent_and_null_fields_change_nothing() -> None:
    known = rights.parse_limits(WHOLE, Limits())
    assert (
        rights.parse_limits(dict.fromkeys(WHOLE), known) == rights.parse_limits({}, known) == known
    )
    changed = rights.parse_limits({"rpm_limit": 5}, known)
    assert Window("requests", "minute", 5) in changed.windows
    assert Window("requests", "hour", 100) in changed.windows


def test_limits_are_removed() -> None:
    known = rights.parse_limits(WHOLE, Limits())
    removed = {name: -1 for name, value in WHOLE.items() if isinstance(value, int | float)}
    empty = {"limits": {}, "budget_limits": [], "budget_duration": ""}
    empty |= {"model_rpm_limit": {}, "model_tpm_limit": {}, "model_limits": {}}
    assert rights.parse_limits({**removed, **empty}, known) == Limits()


def test_limits_of_models_replace_those_of_the_same_quantity() -> None:
    known = rights.parse_limits(
        {"model_rpm_limit": {"a": 1, "b": 2}, "model_tpm_limit": {"a": 3}}, Limits()
    )
    changed = rights.parse_limits({"model_rpm_limit": {"b": 4, "c": -1}}, known)
    assert changed.windows == (
        Window("tokens", "minute", 3, "a"),
        Window("requests", "minute", 4, "b"),
    )
    assert rights.parse_limits({"rpm_limit": 5}, known).windows[1:] == known.windows
    assert rights.parse_limits({"limits": {}}, known) == known
    assert rights.parse_limits({"model_limits": {}}, known) == Limits()


def test_zero_is_a_limit() -> None:
    known = rights.parse_limits({"rpm_limit": 0, "max_budget": 0}, Limits())
    assert known.windows == (Window("requests", "minute", 0),)
    assert known.budget == Budget(most=0)


@pytest.mark.parametrize(
    ("duration", "shown"),
    [("24h", "1d"), ("7d", "7d"), ("1mo", "30d"), ("365d", "365d"), ("", None)],
)
def test_durations_of_budgets_are_periods_of_the_calendar(duration: str, shown: str | None) -> None:
    known = rights.parse_limits({"max_budget": 1, "budget_duration": duration}, Limits())
    assert rights.shown_limits(known)["budget_duration"] == shown


def test_number_of_budgets_is_bounded() -> None:
    most = [{"max_budget": 1}] * rights.MOST_BUDGETS
    assert len(rights.parse_limits({"budget_limits": most}, Limits()).budgets) == len(most)
    with pytest.raises(InvalidParameter, match="at most 8"):
        rights.parse_limits({"budget_limits": [*most, {"max_budget": 1}]}, Limits())


def test_numbers_are_bounded() -> None:
    assert rights.parse_limits({"rpm_limit": rights.MOST}, Limits()).windows[0].most == rights.MOST
    with pytest.raises(InvalidParameter, match="rpm_limit must be between"):
        rights.parse_limits({"rpm_limit": rights.MOST + 1}, Limits())
    assert rights.parse_limits({"max_budget": rights.MOST_SPENT}, Limits()).budget is not None
    with pytest.raises(InvalidParameter, match="max_budget must be between"):
        rights.parse_limits({"max_budget": 2 * rights.MOST_SPENT}, Limits())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model_rpm_limit": {"a": "x"}}, "model_rpm_limit.a"),
        ({"model_tpm_limit": {"a": -2}}, "model_tpm_limit.a"),
        ({"model_rpm_limit": {"": 1}}, "model_rpm_limit"),
        ({"model_rpm_limit": [1]}, "model_rpm_limit"),
        ({"model_limits": {"a": {"words": {}}}}, "model_limits.a"),
        ({"model_limits": {"a": {"tokens": {"year": 1}}}}, "model_limits.a.tokens"),
        ({"model_limits": {"a": 1}}, "model_limits.a"),
        ({"model_limits": {str(n): {} for n in range(rights.MOST_MODELS + 1)}}, "model_limits"),
        ({"rpm_limit": -2}, "rpm_limit"),
        ({"rpm_limit": "60"}, "rpm_limit"),
        ({"tpm_limit": 1.5}, "tpm_limit"),
        ({"limits": {"words": {}}}, "limits"),
        ({"limits": {"tokens": {"second": 1}}}, "limits.tokens"),
        ({"limits": {"tokens": {"day": -1}}}, "limits.tokens.day"),
        ({"limits": {"tokens": 5}}, "limits.tokens"),
        ({"limits": []}, "limits"),
        ({"max_budget": float("nan")}, "max_budget"),
        ({"max_budget": True}, "max_budget"),
        ({"budget_duration": "5d"}, "budget_duration"),
        ({"budget_limits": [{}]}, "budget_limits[0]"),
        ({"budget_limits": [{"max_budget": 1, "unit": "euros"}]}, "budget_limits[0].unit"),
        ({"budget_limits": [{"max_budget": 1, "x": 1}]}, "x"),
        ({"budget_limits": [7]}, "budget_limits[0]"),
    ],
)
def test_wrong_limits_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        rights.parse_of_key(body, Rights())
    assert caught.value.param == param
