"""Budgets: their periods by the calendar, what things cost, and the alerts about them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from ..limits import Budget, BudgetPeriod, Limited, Unit
from ..rights import matches
from .limiter import MICROSECONDS, Meter

HOUR = 3600 * MICROSECONDS
# Units of a meter in one of money, a token, and a second. Doubles count them exactly.
SCALES: dict[Unit, int] = {"money": 1_000_000, "tokens": 1000, "slot_seconds": 1_000_000}
LARGEST = 2**52  # units of a meter
MILLION = 1_000_000  # tokens that a price is for
NO_PRICE = "a budget of money never ends, as requests cost nothing: add a [[price]] to the settings"

MOST_PRICE = 10**9
_Amount = Annotated[float, Meta(ge=0, le=MOST_PRICE)]


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ``[[price]]`` table of the settings file: what a million tokens of a model cost. `model` is
    a name or a pattern. Cached tokens cost as much as others unless `cached` says otherwise."""

    model: str = "*"
    prompt: _Amount = 0.0
    cached: _Amount | None = None
    completion: _Amount = 0.0


FREE = Price()


class Alert(NamedTuple):
    """A budget reached its soft or hard limit by a request of that `cost`."""

    subject: str
    unit: Unit
    period: BudgetPeriod
    spent: float
    soft: float | None
    most: float | None
    is_hard: bool
    cost: str = ""


class Used(Struct, frozen=True, gc=False):
    """What a request has used; `cached` are tokens of the prompt."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    slot_seconds: float = 0.0


@lru_cache(maxsize=64)
def span_of(period: BudgetPeriod, hour: int) -> tuple[int, int]:
    """The period that an hour is in, in microseconds since 1970; 0 and 0 for all time."""
    if not period:
        return 0, 0
    day = datetime.fromtimestamp(3600 * hour, UTC).replace(hour=0)
    if period == "week":
        begin = day - timedelta(days=day.weekday())
        end = begin + timedelta(days=7)
    elif period == "month":
        begin = day.replace(day=1)
        end = (begin + timedelta(days=32)).replace(day=1)
    elif period == "year":
        begin = day.replace(month=1, day=1)
        end = begin.replace(year=begin.year + 1)
    else:
        begin, end = day, day + timedelta(days=1)
    return int(begin.timestamp()) * MICROSECONDS, int(end.timestamp()) * MICROSECONDS


def meter_of(budget: Budget, now: int) -> Meter:
    most = LARGEST if budget.most is None else min(LARGEST, units(budget.unit, budget.most))
    begin, end = span_of(budget.period, now // HOUR)
    name = f"{budget.unit}/{budget.period or 'ever'}/budget"
    return Meter(name, most, 0, epoch=begin // MICROSECONDS, ends=end)


def unit_of(meter: Meter) -> Unit | None:
    """The unit of a budget's meter, None for that of a window."""
    unit_names = (unit for unit in SCALES if meter.name.startswith(f"{unit}/"))
    return next(unit_names, None) if meter.name.endswith("/budget") else None


def plain(amount: float) -> str:
    """An amount as people write it, to a millionth: 0.000051, not 5.1e-05."""
    return f"{amount:.6f}".rstrip("0").rstrip(".")


def units(unit: Unit, amount: float) -> int:
    return round(amount * SCALES[unit])


def price_of(prices: Sequence[Price], model: str) -> Price:
    return next((price for price in prices if matches(price.model, model)), FREE)


def cost(unit: Unit, used: Used, price: Price) -> float:
    """What a request has used, in a budget's unit."""
    if unit == "slot_seconds":
        return used.slot_seconds
    if unit == "tokens":
        return used.prompt + used.completion
    cached = price.prompt if price.cached is None else price.cached
    fresh = used.prompt - used.cached
    paid = fresh * price.prompt + used.cached * cached + used.completion * price.completion
    return paid / MILLION


def budgets_of(limited: Limited) -> list[Budget]:
    """The budgets of a subject, the strictest of those with one unit and period."""
    strictest: dict[tuple[Unit, BudgetPeriod], Budget] = {}
    limits = limited.limits
    for budget in (*([limits.budget] if limits.budget else ()), *limits.budgets):
        strict = strictest.get((budget.unit, budget.period), budget)
        strictest[budget.unit, budget.period] = Budget(
            unit=budget.unit,
            period=budget.period,
            most=_least(budget.most, strict.most),
            soft=_least(budget.soft, strict.soft),
        )
    return list(strictest.values())


def _least(first: float | None, other: float | None) -> float | None:
    return min((each for each in (first, other) if each is not None), default=None)
