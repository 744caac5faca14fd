"""Budgets: periods of the calendar, prices, and costs of requests."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.accounts.limiting.budgets import (
    FREE,
    HOUR,
    LARGEST,
    Price,
    Used,
    budgets_of,
    cost,
    meter_of,
    price_of,
    span_of,
)
from proxy.accounts.limits import Budget, BudgetPeriod, Limited, Limits


def _time(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("day", "2026-11-23", "2026-11-24"),
        ("week", "2026-11-23", "2026-11-30"),
        ("month", "2026-11-01", "2026-12-01"),
        ("year", "2026-01-01", "2027-01-01"),
    ],
)
def test_periods_are_those_of_the_calendar(period: BudgetPeriod, begin: str, end: str) -> None:
    for inside in (f"{begin}T00:00:00", "2026-11-23T15:59:59"):
        assert span_of(period, _time(inside) // HOUR) == (_time(begin), _time(end))
    assert span_of(period, _time(end) // HOUR)[0] == _time(end)


def test_a_month_may_end_with_the_year() -> None:
    span = span_of("month", _time("2026-12-31T23:59:59") // HOUR)
    assert span == (_time("2026-12-01"), _time("2027-01-01"))


def test_units_of_meters_are_bounded() -> None:
    assert meter_of(Budget(most=1e11), 0).capacity == LARGEST
    assert meter_of(Budget(soft=1.0), 0).capacity == LARGEST  # no hard limit


def test_the_first_price_that_fits_counts() -> None:
    prices = [Price(model="qwen*", prompt=1), Price(model="qwen-7b", prompt=2)]
    assert price_of(prices, "qwen-7b").prompt == 1
    assert price_of(prices, "llama") is FREE


@pytest.mark.parametrize(
    ("unit", "spent"),
    [("money", 0.7 * 2 + 0.3 * 0.5 + 0.1 * 8), ("tokens", 1_100_000), ("slot_seconds", 12.5)],
)
def test_cost_of_a_request(unit: str, spent: float) -> None:
    used = Used(1_000_000, 300_000, 100_000, 12.5)
    price = Price(prompt=2, cached=0.5, completion=8)
    assert cost(unit, used, price) == pytest.approx(spent, rel=0.01)  # type: ignore[arg-type]


def test_cached_tokens_cost_as_others_unless_priced() -> None:
    assert cost("money", Used(1_000_000, 300_000), Price(prompt=2)) == 2.0


def test_of_equal_budgets_the_strictest_counts() -> None:
    limits = Limits(
        budget=Budget(most=5, soft=4, period="day"),
        budgets=(Budget(most=9, soft=3, period="day"), Budget(unit="tokens", most=1)),
    )
    assert budgets_of(Limited("key k", limits)) == [
        Budget(most=5, soft=3, period="day"),
        Budget(unit="tokens", most=1),
    ]
