"""What a key, user or team may use: limits in windows that slide, and budgets by the calendar."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Quantity = Literal["requests", "prompt_tokens", "tokens"]
QUANTITIES: tuple[Quantity, ...] = ("requests", "prompt_tokens", "tokens")
Period = Literal["minute", "hour", "day", "month"]
PERIODS: dict[Period, int] = {"minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000}
Unit = Literal["money", "tokens", "slot_seconds"]
UNITS: tuple[Unit, ...] = ("money", "tokens", "slot_seconds")
BudgetPeriod = Literal["", "day", "week", "month", "year"]


class Window(Struct, frozen=True):
    """At most so many requests or tokens in a period. All of them may be used at once; they come
    back evenly over the period. A month has 30 days. With a `model`, only requests to models of
    this name count, or all together that fit a pattern with `*`."""

    quantity: Quantity
    period: Period
    most: int
    model: str = ""


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be spent in each day, week (from Monday), month or year of the calendar in UTC; ""
    is for ever. `most` is the hard limit, `soft` the one that only warns; None for none. Money is
    counted in the currency of the price table."""

    unit: Unit = "money"
    most: float | None = None
    soft: float | None = None
    period: BudgetPeriod = ""


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None is no limit. `parallel` requests run or wait, `queued` wait for a slot. `prompt` and
    `answer` are the largest, in tokens. `budget` is the one of LiteLLM's single fields."""

    windows: tuple[Window, ...] = ()
    parallel: int | None = None
    queued: int | None = None
    prompt: int | None = None
    answer: int | None = None
    budget: Budget | None = None
    budgets: tuple[Budget, ...] = ()


NO_LIMITS = Limits()


class Limited(Struct, frozen=True):
    """The limits of a key, user or team; `subject` is its kind and id, such as "team research"."""

    subject: str
    limits: Limits
