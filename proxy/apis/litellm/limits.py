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
from ..schema_fields import Field, Schema, array, count, mapping, number, text
from . import values

MOST = 10**11  # tokens or requests of a limit
MOST_SPENT = 10**11
MOST_BUDGETS = 8
MOST_MODELS = 100  # with limits of their own
NONE = -1  # removes a limit
# Fields of windows: whether they are by model, and whose limit a minute they are; None for all.
_WINDOWS: dict[str, tuple[bool, Quantity | None]] = {
    "limits": (False, None),
    "model_limits": (True, None),
    "rpm_limit": (False, "requests"),
    "tpm_limit": (False, "tokens"),
    "model_rpm_limit": (True, "requests"),
    "model_tpm_limit": (True, "tokens"),
}
_BUDGET = {"max_budget": "most", "soft_budget": "soft"}
_DURATIONS: dict[BudgetPeriod, str] = {"day": "1d", "week": "7d", "month": "30d", "year": "365d"}
DURATIONS = ", ".join(_DURATIONS.values())
_PERIODS: dict[str, BudgetPeriod] = {
    **{duration: period for period, duration in _DURATIONS.items()},
    **{"24h": "day", "1w": "week", "1mo": "month", "12mo": "year", "": ""},
}
_Windows = dict[tuple[str, Quantity, Period], int]  # the most by model, "" for all together


def _limit(description: str, example: int) -> Schema:
    return count(f"{description}; -1 removes the limit.", NONE, MOST, example)


def _most(body: Body, field: str) -> int | None:
    most = fields.integer(body, field, NONE, MOST)
    return None if most == NONE else most


_COUNTS: dict[str, Field] = {
    "max_parallel_requests": Field(
        _limit("Requests that run or wait at the same time", 4), "parallel", _most
    ),
    "max_queued_requests": Field(_limit("Requests that wait for a slot", 8), "queued", _most),
    "max_prompt_tokens": Field(_limit("Tokens of the largest prompt", 8192), "prompt", _most),
    "max_completion_tokens": Field(_limit("Tokens of the largest answer", 1024), "answer", _most),
}
FIELDS: dict[str, Schema | Field] = {
    "rpm_limit": _limit("Requests in a minute", 60),
    "tpm_limit": _limit("Tokens of prompts and answers in a minute", 50_000),
    "limits": mapping(
        "All limits in windows: `requests`, `prompt_tokens` and `tokens` in a `minute`, `hour`,"
        " `day` or `month` of 30 days. Empty for none.",
        {"requests": {"hour": 1000}, "tokens": {"day": 1_000_000}},
    ),
    "model_rpm_limit": mapping(
        "Requests in a minute by model: a name, or a pattern with `*`. It replaces those of all"
        " models; empty for none.",
        {"qwen*": 30},
    ),
    "model_tpm_limit": mapping("Tokens in a minute by model, in the same way.", {"qwen*": 20_000}),
    "model_limits": mapping(
        "All limits in windows by model, each as `limits`. Empty for none.",
        {"qwen*": {"requests": {"day": 500}}},
    ),
    **_COUNTS,
    "max_budget": number(
        "Money that may be spent in `budget_duration`; -1 removes the limit.", NONE, MOST_SPENT, 20
    ),
    "soft_budget": number(
        "Money from which a warning is sent; -1 removes it.", NONE, MOST_SPENT, 15
    ),
    "budget_duration": text(
        f"The period of `max_budget`: {DURATIONS}, by the calendar in UTC; empty for ever.", "30d"
    ),
    "budget_limits": array(
        "Further budgets: objects with `unit` (money, tokens or slot_seconds), `max_budget`,"
        " `soft_budget` and `budget_duration`.",
        [{"unit": "slot_seconds", "max_budget": 3600, "budget_duration": "1d"}],
    ),
}


def parse(body: Body, known: Limits) -> Limits:
    """The known limits with the changes of a body. Raises InvalidParameter."""
    changes = values.changes(body, _COUNTS)
    if body.get("budget_limits") is not None:
        changes["budgets"] = _budgets(body)
    main = _budget(body, known.budget or Budget(), "")
    changes["budget"] = None if main.most is None and main.soft is None else main
    return replace(known, **changes, windows=_windows(body, known))


def shown(limits: Limits) -> dict[str, Any]:
    by_model: dict[str, dict[str, dict[str, int]]] = {}
    for window in limits.windows:
        table = by_model.setdefault(window.model, {})
        table.setdefault(window.quantity, {})[window.period] = window.most
    windows = by_model.pop("", {})
    shown: dict[str, Any] = {"limits": windows, "model_limits": by_model}
    for field, (of_models, quantity) in _WINDOWS.items():
        if quantity and of_models:
            minutes = {model: table.get(quantity, {}) for model, table in by_model.items()}
            shown[field] = {
                model: periods["minute"]
                for model, periods in minutes.items()
                if "minute" in periods
            }
        elif quantity:
            shown[field] = windows.get(quantity, {}).get("minute")
    return {
        **shown,
        **{field: getattr(limits, column.key) for field, column in _COUNTS.items()},
        **_shown_budget(limits.budget or Budget()),
        "budget_limits": [
            {"unit": budget.unit, **_shown_budget(budget)} for budget in limits.budgets
        ],
    }


def _shown_budget(budget: Budget) -> dict[str, Any]:
    duration = _DURATIONS[budget.period] if budget.period else None
    return {"max_budget": budget.most, "soft_budget": budget.soft, "budget_duration": duration}


def _windows(body: Body, known: Limits) -> tuple[Window, ...]:
    """Each field replaces the limits that it is about. As LiteLLM does, `model_rpm_limit` and
    `model_tpm_limit` replace the limits a minute of all models."""
    windows: _Windows = {
        (window.model, window.quantity, window.period): window.most for window in known.windows
    }
    for field, (of_models, quantity) in _WINDOWS.items():
        if body.get(field) is None:
            continue
        windows = {
            name: most
            for name, most in windows.items()
            if bool(name[0]) != of_models or (quantity and name[1:] != (quantity, "minute"))
        }
        given = _by_model(body, field) if of_models else body
        for name in given if of_models else (field,):
            model, at = (name, f"{field}.") if of_models else ("", "")
            if quantity is None:
                windows |= _table(fields.mapping(given, name, at), model, at + name)
            elif (most := fields.integer(given, name, NONE, MOST, at)) is not None:
                windows[model, quantity, "minute"] = most
    return tuple(
        Window(quantity, period, most, model)
        for (model, quantity, period), most in sorted(windows.items())
        if most != NONE
    )


def _by_model(body: Body, field: str) -> Body:
    """An object whose names are those of models, or patterns."""
    given = fields.mapping(body, field)
    if len(given) > MOST_MODELS:
        raise InvalidParameter(field, f"may have at most {MOST_MODELS} models")
    if not all(0 < len(model) <= values.MAX_NAME for model in given):
        raise InvalidParameter(
            field, f"must have names of models of 1 to {values.MAX_NAME} characters"
        )
    return given


def _table(given: Body, model: str, at: str) -> _Windows:
    """A table of `limits`: the most of each quantity in each period."""
    windows: _Windows = {}
    for quantity in given:
        if quantity not in QUANTITIES:
            raise InvalidParameter(at, f"may have only {', '.join(QUANTITIES)}")
        periods = fields.mapping(given, quantity, f"{at}.")
        for period in periods:
            if period not in PERIODS:
                raise InvalidParameter(f"{at}.{quantity}", f"may have only {', '.join(PERIODS)}")
            most = fields.integer(periods, period, 0, MOST, f"{at}.{quantity}.")
            if most is not None:
                windows[model, quantity, period] = most
    return windows


def _budgets(body: Body) -> tuple[Budget, ...]:
    given = fields.items(body, "budget_limits")
    if len(given) > MOST_BUDGETS:
        raise InvalidParameter("budget_limits", f"may have at most {MOST_BUDGETS} entries")
    budgets = []
    for place, value in enumerate(given):
        at = f"budget_limits[{place}]"
        entry = fields.entry(value, at)
        values.refuse_others(entry, {"unit", "budget_duration", *_BUDGET})
        unit = fields.text(entry, "unit", "money", f"{at}.")
        if unit not in UNITS:
            raise InvalidParameter(f"{at}.unit", f"must be one of {', '.join(UNITS)}")
        budget = _budget(entry, Budget(unit=unit), f"{at}.")
        if budget.most is None and budget.soft is None:
            raise InvalidParameter(at, "needs max_budget or soft_budget")
        budgets.append(budget)
    return tuple(budgets)


def _budget(body: Body, known: Budget, at: str) -> Budget:
    changes: dict[str, Any] = {}
    for field, name in _BUDGET.items():
        if body.get(field) is not None:
            changes[name] = _amount(body, field, at)
    if body.get("budget_duration") is not None:
        duration = fields.text(body, "budget_duration", at=at)
        if duration not in _PERIODS:
            raise InvalidParameter(
                f"{at}budget_duration", f"must be one of {DURATIONS}, or empty for ever"
            )
        changes["period"] = _PERIODS[duration]
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
