"""The plan of a request: which of its key's limits count."""

from __future__ import annotations

import re

from proxy.accounts.limiting.budgets import FREE
from proxy.accounts.limiting.plan import Plan, Pricing, Size, meter_of_window
from proxy.accounts.limits import Limited, Limits, Window

KEY = Limited(
    "key k",
    Limits(
        windows=(
            Window("requests", "minute", 60),
            Window("requests", "minute", 10, "qwen*"),
            Window("tokens", "day", 500, "qwen-vl"),
        )
    ),
)
TERMS = Pricing(FREE, 0)


def test_only_the_limits_of_the_asked_model_count() -> None:
    whole = Plan([KEY])
    assert [Plan.of(whole, names).models for names in ((), ("other",), ("tiny", "qwen2"))] == [
        {""},
        {""},
        {"", "qwen*"},
    ]
    both = whole.of(("qwen-vl",))
    assert (both.models, both.counts_tokens) == ({"", "qwen*", "qwen-vl"}, True)
    assert not whole.of(("qwen2",)).counts_tokens
    assert whole.of(("qwen3", "qwen-vl")) is both
    assert len(both.charges(Size(3), TERMS)) == 3


def test_plan_without_limits_of_models_is_the_same_for_all() -> None:
    plan = Plan([Limited("key k", Limits(windows=(Window("requests", "minute", 60),)))])
    assert plan.of(("qwen",)) is plan


def test_names_of_meters_are_unique_and_safe_in_a_lease() -> None:
    windows = [Window("requests", "minute", 1, model) for model in ("", "a", "a=1,b|*", "a*")]
    names = [meter_of_window(one).name for one in windows]
    assert len(set(names)) == len(windows)
    assert all(re.fullmatch(r"[a-z0-9_/]+", name) for name in names)
