"""Limits and budgets in LiteLLM's fields, and in our own where LiteLLM has none.

Null and absent fields change nothing, -1 removes a limit.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from ...accounts.limits import (
    PERIODS,
    QUANTITIES,
    UNITS,
    Budget,
    BudgetPeriod,
    Limits,
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
MOST_MODELS = 100  # with limits of their own
NONE = -1  # removes a limit
_MINUTE: dict[str, Quantity] = {"rpm_limit": "requests", "tpm_limit": "tokens"}
_MINUTE_OF_MODELS: dict[str, Quantity] = {
    "model_rpm_limit": "requests",
    "model_tpm_limit": "tokens",
}
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
    {
        "limits",
        "model_limits",
        "on_limit",
        "budget_duration",
        "budget_limits",
        *_MINUTE,
        *_MINUTE_OF_MODELS,
        *_COUNTS,
        *_BUDGET,
    }
)
_Windows = dict[tuple[Quantity, Period], int]


def parse(body: Body, known: Limits) -> Limits:
    """The known limits with the changes of a body. Raises InvalidParameter."""
    if FIELDS.isdisjoint(body):
        return known
    changes: dict[str, Any] = {}
    for field, name in _COUNTS.items():
        count = fields.integer(body, field, NONE, MOST)
        if count is not None:
            changes[name] = None if count == NONE else count
    if body.get("on_limit", "") not in ("", "reject", None):
        raise InvalidParameter(
            "on_limit",
            "must be left out: a request beyond a limit gets 429 with Retry-After, and the client"
            " may wait",
        )
    if body.get("budget_limits") is not None:
        changes["budgets"] = _budgets(body)
    return replace(
        known, **changes, windows=_windows(body, known), budget=_main_budget(body, known.budget)
    )


def shown(limits: Limits) -> dict[str, Any]:
    budget = limits.budget or Budget()
    windows: dict[str, dict[str, int]] = {}
    models: dict[str, dict[str, dict[str, int]]] = {}
    for one in limits.windows:
        table = models.setdefault(one.model, {}) if one.model else windows
        table.setdefault(one.quantity, {})[one.period] = one.most
    return {
        **{field: limits.window(name, "minute") for field, name in _MINUTE.items()},
        **{
            field: {
                model: table[name]["minute"]
                for model, table in models.items()
                if "minute" in table.get(name, ())
            }
            for field, name in _MINUTE_OF_MODELS.items()
        },
        **{field: getattr(limits, name) for field, name in _COUNTS.items()},
        "limits": windows,
        "model_limits": models,
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
    found = {(one.quantity, one.period): one.most for one in known.windows if not one.model}
    if body.get("limits") is not None:
        found = _table(fields.mapping(body, "limits"), "limits")
    for field, quantity in _MINUTE.items():
        most = fields.integer(body, field, NONE, MOST)
        if most == NONE:
            found.pop((quantity, "minute"), None)
        elif most is not None:
            found[quantity, "minute"] = most
    windows = [Window(*name, most) for name, most in sorted(found.items())]
    for model, table in sorted(_windows_of_models(body, known).items()):
        windows += (Window(*name, most, model) for name, most in sorted(table.items()))
    return tuple(windows)


def _windows_of_models(body: Body, known: Limits) -> dict[str, _Windows]:
    """The windows of each model. As LiteLLM does, `model_rpm_limit` and `model_tpm_limit` replace
    the limits a minute of all models."""
    found: dict[str, _Windows] = {}
    for one in known.windows:
        if one.model:
            found.setdefault(one.model, {})[one.quantity, one.period] = one.most
    if body.get("model_limits") is not None:
        given = fields.mapping(body, "model_limits")
        found = {
            model: _table(fields.mapping(given, model, "model_limits."), f"model_limits.{model}")
            for model in _models(given, "model_limits")
        }
    for field, quantity in _MINUTE_OF_MODELS.items():
        if body.get(field) is None:
            continue
        for table in found.values():
            table.pop((quantity, "minute"), None)
        given = fields.mapping(body, field)
        for model in _models(given, field):
            most = fields.integer(given, model, NONE, MOST, f"{field}.")
            if most is not None and most != NONE:
                found.setdefault(model, {})[quantity, "minute"] = most
    return found


def _models(given: Body, field: str) -> Body:
    """The names, or patterns, of a table of models."""
    if len(given) > MOST_MODELS:
        raise InvalidParameter(field, f"may have at most {MOST_MODELS} models")
    if not all(0 < len(model) <= values.MAX_NAME for model in given):
        raise InvalidParameter(
            field, f"must have names of models of 1 to {values.MAX_NAME} characters"
        )
    return given


def _table(given: Body, at: str) -> _Windows:
    """A table of `limits`: the most of each quantity in each period."""
    found: _Windows = {}
    for quantity in given:
        if quantity not in QUANTITIES:
            raise InvalidParameter(at, f"may have only {', '.join(QUANTITIES)}")
        periods = fields.mapping(given, quantity, f"{at}.")
        for period in periods:
            if period not in PERIODS:
                raise InvalidParameter(f"{at}.{quantity}", f"may have only {', '.join(PERIODS)}")
            most = fields.integer(periods, period, 0, MOST, f"{at}.{quantity}.")
            if most is not None:
                found[quantity, period] = most
    return found


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
