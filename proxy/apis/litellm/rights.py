"""The rights and limits of a key, user or team in LiteLLM's fields, and in our own beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
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
from ...accounts.rights import (
    API_GROUPS,
    APIS,
    CAPTURES,
    LOOPS,
    OVERFLOWS,
    PRIORITIES,
    Rights,
    wrong_network,
)
from ...core import late_binding
from ...errors import InvalidParameter
from .. import added, fields
from ..fields import Body
from ..schema_fields import TEXT, Field, Schema, array, count, flag, mapping, number, strings, text
from . import values

# -- limits and budgets: null and absent fields change nothing, -1 removes a limit

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
LIMITS: dict[str, Schema | Field] = {
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


def parse_limits(body: Body, before: Limits) -> Limits:
    """The known limits with the changes of a body. Raises InvalidParameter."""
    changes = values.changes(body, _COUNTS)
    if body.get("budget_limits") is not None:
        changes["budgets"] = _budgets(body)
    main = _budget(body, before.budget or Budget(), "")
    changes["budget"] = None if main.most is None and main.soft is None else main
    return replace(before, **changes, windows=_windows(body, before))


def shown_limits(limits: Limits) -> dict[str, Any]:
    by_model: dict[str, dict[str, dict[str, int]]] = {}
    for window in limits.windows:
        table = by_model.setdefault(window.model, {})
        table.setdefault(window.quantity, {})[window.period] = window.most
    windows = by_model.pop("", {})
    fields_shown: dict[str, Any] = {"limits": windows, "model_limits": by_model}
    for field, (of_models, quantity) in _WINDOWS.items():
        if quantity and of_models:
            fields_shown[field] = {
                model: table[quantity]["minute"]
                for model, table in by_model.items()
                if "minute" in table.get(quantity, ())
            }
        elif quantity:
            fields_shown[field] = windows.get(quantity, {}).get("minute")
    return {
        **fields_shown,
        **{field: getattr(limits, column.key) for field, column in _COUNTS.items()},
        **_shown_budget(limits.budget or Budget()),
        "budget_limits": [
            {"unit": budget.unit, **_shown_budget(budget)} for budget in limits.budgets
        ],
    }


def _shown_budget(budget: Budget) -> dict[str, Any]:
    duration = _DURATIONS[budget.period] if budget.period else None
    return {"max_budget": budget.most, "soft_budget": budget.soft, "budget_duration": duration}


def _windows(body: Body, before: Limits) -> tuple[Window, ...]:
    """`model_rpm_limit` and `model_tpm_limit` replace the limits a minute of all models."""
    windows: _Windows = {
        (window.model, window.quantity, window.period): window.most for window in before.windows
    }
    for field, (of_models, quantity) in _WINDOWS.items():
        if body.get(field) is None:
            continue
        windows = {
            name: most
            for name, most in windows.items()
            if bool(name[0]) != of_models or (quantity and name[1:] != (quantity, "minute"))
        }
        table = _by_model(body, field) if of_models else body
        for name in table if of_models else (field,):
            model, at = (name, f"{field}.") if of_models else ("", "")
            if quantity is None:
                windows |= _table(fields.mapping(table, name, at), model, at + name)
            elif (most := fields.integer(table, name, NONE, MOST, at)) is not None:
                windows[model, quantity, "minute"] = most
    return tuple(
        Window(quantity, period, most, model)
        for (model, quantity, period), most in sorted(windows.items())
        if most != NONE
    )


def _by_model(body: Body, field: str) -> Body:
    """An object whose names are those of models, or patterns."""
    table = fields.mapping(body, field)
    if len(table) > MOST_MODELS:
        raise InvalidParameter(field, f"may have at most {MOST_MODELS} models")
    if not all(0 < len(model) <= values.MAX_NAME for model in table):
        raise InvalidParameter(
            field, f"must have names of models of 1 to {values.MAX_NAME} characters"
        )
    return table


def _table(table: Body, model: str, at: str) -> _Windows:
    """A table of `limits`: the most of each quantity in each period."""
    windows: _Windows = {}
    for quantity in table:
        if quantity not in QUANTITIES:
            raise InvalidParameter(at, f"may have only {', '.join(QUANTITIES)}")
        periods = fields.mapping(table, quantity, f"{at}.")
        for period in periods:
            if period not in PERIODS:
                raise InvalidParameter(f"{at}.{quantity}", f"may have only {', '.join(PERIODS)}")
            most = fields.integer(periods, period, 0, MOST, f"{at}.{quantity}.")
            if most is not None:
                windows[model, quantity, period] = most
    return windows


def _budgets(body: Body) -> tuple[Budget, ...]:
    entries = fields.items(body, "budget_limits")
    if len(entries) > MOST_BUDGETS:
        raise InvalidParameter("budget_limits", f"may have at most {MOST_BUDGETS} entries")
    budgets = []
    for place, value in enumerate(entries):
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


def _budget(body: Body, before: Budget, at: str) -> Budget:
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
    return replace(before, **changes)


def _amount(body: Body, field: str, at: str) -> float | None:
    value = body[field]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidParameter(at + field, "must be a number")
    if value == NONE:
        return None
    if not 0 <= value <= MOST_SPENT:
        raise InvalidParameter(at + field, f"must be between 0 and {MOST_SPENT:g}, or -1 for none")
    return float(value)


# -- rights

MAX_RIGHTS = 200  # entries of a list
_EVERY = {"all-proxy-models", "all-team-models", "*"}  # names of all models that a team may use


def _names(body: Body, field: str) -> tuple[str, ...]:
    return values.names(body, field, MAX_RIGHTS)


def _models(body: Body, field: str) -> tuple[str, ...]:
    models = _names(body, field)
    return () if _EVERY & set(models) else models


def _apis(body: Body, field: str) -> tuple[str, ...]:
    apis = _names(body, field)
    names = (*APIS, *added(), *API_GROUPS)
    for api in apis:
        if not api.startswith("/") and api not in names:
            raise InvalidParameter(
                field, f"has {api[:60]!r}; it may have paths and {', '.join(names)}"
            )
    return apis


def _late_binding(body: Body, field: str) -> tuple[str, ...]:
    rules = values.names(body, field, late_binding.MOST)
    try:
        return tuple(map(late_binding.rule, rules))
    except ValueError as error:
        raise InvalidParameter(field, f"is wrong: {error}") from None


def _networks(body: Body, field: str) -> tuple[str, ...]:
    networks = _names(body, field)
    for network in networks:
        if why := wrong_network(network):
            raise InvalidParameter(field, f"is wrong: {why}")
    return networks


def _group(body: Body, field: str) -> str:
    group = values.name(body, field) or ""
    if " " in group:
        raise InvalidParameter(field, "may not contain spaces")
    return group


def _list(
    key: str, description: str, *example: str, read: Callable[[Body, str], tuple[str, ...]] = _names
) -> Field:
    return Field(strings(description, *example), key, read)


def _choice(key: str, description: str, example: str, choices: Sequence[str]) -> Field:
    def read(body: Body, field: str) -> str:
        return fields.text(body, field) and fields.choice(body, field, choices)

    return Field(text(description, example, enum=["", *choices]), key, read)


_BASES = "Names or ids of knowledge bases, or patterns with `*`; empty for all."
_OVERFLOW = "What happens to conversations that do not fit the context."
# The fields of Rights, as keys, users and teams have them.
COLUMNS: dict[str, Field] = {
    "models": _list(
        "models", "Names of models, or patterns with `*`; empty for all.", "qwen*", read=_models
    ),
    "allowed_routes": _list(
        "apis", "Groups of routes, or paths, also with `*`; empty for all.", "chat", read=_apis
    ),
    "allowed_tools": _list(
        "tools", "Tools of the gateway, or patterns with `*`; empty for all.", "web_search"
    ),
    "allowed_knowledge_bases": _list("knowledge", _BASES, "handbook"),
    "allowed_ips": _list(
        "networks", "Addresses and networks of clients; empty for all.", "::1", read=_networks
    ),
    "barred_tiers": _list("barred_tiers", "Tiers of routes that may not be used.", "cloud"),
    "read_only": Field(flag("Allow GET requests only."), "read_only", fields.flag),
    "share": Field(flag("Let conversations be shared by link."), "share", fields.flag),
    "pull": Field(flag("Let models be downloaded and deleted."), "pull", fields.flag),
    "trusted_for_users": Field(
        flag("Take the person from the request: each is a user with the limits of the key."),
        "trusted_for_users",
        fields.flag,
    ),
    "priority": _choice("priority", "The highest class in the queue.", "low", PRIORITIES),
    "group": Field(text("Keys of one group share cached prompts.", "research"), "group", _group),
    "on_overflow": _choice("on_overflow", _OVERFLOW, "compact", OVERFLOWS),
    "capture": _choice("capture", "Which requests are captured.", "failed", CAPTURES),
    "loops": _choice("loops", "What happens to answers that repeat themselves.", "end", LOOPS),
    "late_binding": _list(
        "late_binding",
        "Beginnings of lines of the system message that are moved to its end; `*` is any text.",
        "The current time is",
        read=_late_binding,
    ),
}
FIELDS: dict[str, Schema | Field] = {**COLUMNS, **LIMITS}


def parse(body: Body, before: Rights) -> Rights:
    """The known rights with the changes of a body, where empty fields remove a limit."""
    changes = values.changes(body, COLUMNS)
    return replace(before, **changes, limits=parse_limits(body, before.limits))


def parse_of_key(body: Body, before: Rights) -> Rights:
    """As `parse`, with the right that only keys have."""
    admin = fields.flag(body, "admin", before.admin)
    return parse(body, replace(before, admin=admin))


def shown(rights: Rights) -> dict[str, Any]:
    columns = {field: getattr(rights, column.key) for field, column in COLUMNS.items()}
    return {
        **{field: None if value == "" else value for field, value in columns.items()},
        **shown_limits(rights.limits),
    }


# Rights and limits of a key in a key file: words FIELD=VALUE, with the fields of /key/generate.
# Lists have commas between their entries, objects are JSON without spaces.
_OWN = {"group", "priority", "on_overflow"}  # which the file itself knows
OPTIONS: dict[str, Schema] = {
    name: field.schema if isinstance(field, Field) else field
    for name, field in FIELDS.items()
    if name not in _OWN
}


def parse_options(options: Mapping[str, str]) -> Rights:
    """The rights of these options. Raises InvalidParameter, with the option as its `param`."""
    for name in options:
        if name not in OPTIONS:
            names = ", ".join(sorted({*OPTIONS, *_OWN}))
            raise InvalidParameter(name[:60], f"is not an option of a key: use {names}")
    body = {name: _option(name, value) for name, value in options.items()}
    return parse(body, Rights())


def _option(name: str, value: str) -> Any:
    schema = OPTIONS[name]
    if schema["type"] == "string":
        return value
    if schema.get("items") is TEXT:
        entries = [entry for entry in value.split(",") if entry]
        if not entries:  # which would mean no bound
            raise InvalidParameter(name, "is empty: name at least one entry, or leave it out")
        return entries
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError):
        kind = (
            "true or false" if schema["type"] == "boolean" else "a number, or JSON without spaces"
        )
        raise InvalidParameter(name, f"must be {kind}") from None
