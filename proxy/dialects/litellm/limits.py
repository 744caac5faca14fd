"""Limits and budgets in LiteLLM's fields, and in our own where LiteLLM has none.

Null and absent fields change nothing, -1 removes a limit.
"""

from __future__ import annotations

import math
from typing import Any, cast, get_args

from msgspec.structs import replace

from ...accounts.limits import (
    ON_LIMIT,
    PERIODS,
    QUANTITIES,
    UNITS,
    Budget,
    BudgetPeriod,
    Limits,
    OnLimit,
    Period,
    Quantity,
    Window,
)
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body
from . import values

MOST = 10**11  # tokens or requests of a limit
MOST_SPENT = 10**11
MOST_BUDGETS = 8
NONE = -1  # removes a limit
_MINUTE: dict[str, Quantity] = {"rpm_limit": "requests", "tpm_limit": "tokens"}
_COUNTS = {
    "max_parallel_requests": "parallel",
    "max_queued_requests": "queued",
    "max_prompt_tokens": "prompt",
    "max_completion_tokens": "answer",
}
_BUDGET = {"max_budget": "most", "soft_budget": "soft"}
# LiteLLM's durations, of which the first is shown.
_DURATIONS: dict[BudgetPeriod, tuple[str, ...]] = {
    "day": ("1d", "24h"),
    "week": ("7d", "1w"),
    "month": ("30d", "1mo"),
    "year": ("365d", "12mo"),
}
DURATIONS = tuple(names[0] for names in _DURATIONS.values())
FIELDS = frozenset(
    {"limits", "on_limit", "budget_duration", "budget_limits", *_MINUTE, *_COUNTS, *_BUDGET}
)


def parse(body: Body, known: Limits) -> Limits:
    """The known limits with the changes of a body. Raises InvalidParameter."""
    if FIELDS.isdisjoint(body):
        return known
    changes: dict[str, Any] = {}
    for field, name in _COUNTS.items():
        count = fields.integer(body, field, NONE, MOST)
        if count is not None:
            changes[name] = None if count == NONE else count
    if body.get("on_limit") is not None:
        changes["on_limit"] = _on_limit(body)
    if body.get("budget_limits") is not None:
        changes["budgets"] = _budgets(body)
    return replace(
        known, **changes, windows=_windows(body, known), budget=_main_budget(body, known.budget)
    )


def shown(limits: Limits) -> dict[str, Any]:
    budget = limits.budget or Budget()
    windows: dict[str, dict[str, int]] = {}
    for one in limits.windows:
        windows.setdefault(one.quantity, {})[one.period] = one.most
    return {
        **{field: limits.window(name, "minute") for field, name in _MINUTE.items()},
        **{field: getattr(limits, name) for field, name in _COUNTS.items()},
        "limits": windows,
        "on_limit": limits.on_limit or ON_LIMIT[0],
        "max_budget": budget.most,
        "soft_budget": budget.soft,
        "budget_duration": _duration(budget.period),
        "budget_limits": [
            {
                "unit": one.unit,
                "max_budget": one.most,
                "soft_budget": one.soft,
                "budget_duration": _duration(one.period),
            }
            for one in limits.budgets
        ],
    }


def _windows(body: Body, known: Limits) -> tuple[Window, ...]:
    found = {(one.quantity, one.period): one.most for one in known.windows}
    if body.get("limits") is not None:
        found = _table(fields.mapping(body, "limits"))
    for field, quantity in _MINUTE.items():
        most = fields.integer(body, field, NONE, MOST)
        if most == NONE:
            found.pop((quantity, "minute"), None)
        elif most is not None:
            found[quantity, "minute"] = most
    return tuple(Window(*name, most) for name, most in sorted(found.items()))


def _table(given: Body) -> dict[tuple[Quantity, Period], int]:
    """The table of `limits`: the most of each quantity in each period."""
    found: dict[tuple[Quantity, Period], int] = {}
    for quantity in given:
        if quantity not in QUANTITIES:
            raise InvalidParameter("limits", f"may have only {', '.join(QUANTITIES)}")
        periods = fields.mapping(given, quantity, "limits.")
        for period in periods:
            if period not in PERIODS:
                raise InvalidParameter(f"limits.{quantity}", f"may have only {', '.join(PERIODS)}")
            most = fields.integer(periods, period, 0, MOST, f"limits.{quantity}.")
            if most is not None:
                found[quantity, period] = most
    return found


def _on_limit(body: Body) -> OnLimit:
    value = fields.text(body, "on_limit")
    if value not in get_args(OnLimit):
        raise InvalidParameter("on_limit", f"must be {' or '.join(ON_LIMIT)}")
    return cast(OnLimit, value)


def _budgets(body: Body) -> tuple[Budget, ...]:
    given = fields.items(body, "budget_limits")
    if len(given) > MOST_BUDGETS:
        raise InvalidParameter("budget_limits", f"may have at most {MOST_BUDGETS} entries")
    found = []
    for place, one in enumerate(given):
        at = f"budget_limits[{place}]"
        entry = fields.entry(one, at)
        values.refuse_others(entry, {"unit", "budget_duration", *_BUDGET})
        unit = fields.text(entry, "unit", "money", f"{at}.")
        if unit not in UNITS:
            raise InvalidParameter(f"{at}.unit", f"must be one of {', '.join(UNITS)}")
        budget = _budget(entry, Budget(unit=unit), f"{at}.")
        if budget.most is None and budget.soft is None:
            raise InvalidParameter(at, "needs max_budget or soft_budget")
        found.append(budget)
    return tuple(found)


def _main_budget(body: Body, known: Budget | None) -> Budget | None:
    """The budget of the single fields; None if it has no limit."""
    budget = _budget(body, known or Budget(), "")
    return None if budget.most is None and budget.soft is None else budget


def _budget(body: Body, known: Budget, at: str) -> Budget:
    changes: dict[str, Any] = {}
    for field, name in _BUDGET.items():
        if body.get(field) is not None:
            changes[name] = _amount(body, field, at)
    if body.get("budget_duration") is not None:
        changes["period"] = _period(fields.text(body, "budget_duration", at=at), at)
    return replace(known, **changes)


def _amount(body: Body, field: str, at: str) -> float | None:
    value = body[field]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidParameter(at + field, "must be a number")
    if value == NONE:
        return None
    if not 0 <= value <= MOST_SPENT:
        raise InvalidParameter(at + field, f"must be between 0 and {MOST_SPENT:g}, or -1 for none")
    return float(value)


def _period(duration: str, at: str) -> BudgetPeriod:
    if not duration:
        return ""
    for period, names in _DURATIONS.items():
        if duration in names:
            return period
    raise InvalidParameter(
        f"{at}budget_duration", f"must be one of {', '.join(DURATIONS)}, or empty for ever"
    )


def _duration(period: BudgetPeriod) -> str | None:
    return _DURATIONS[period][0] if period else None
