"""The usage page: requests by day and model, and what is used of the limits."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Response, render_template, request

from ...accounts.limiting.allowance import LimitStatus
from ...apis.fields import count_of
from ...apis.usage import routes as usage
from ...errors import LimitsUnavailable
from ...store.ledger_rows import LedgerGroup
from .. import permissions
from ..ledger import query
from ..ledger.query import DAY, everyone
from ..services import Services, current_services
from ..spine import json_response, json_view
from . import api, guard

blueprint = guard.guarded("panel_usage")

API = "/pages/api/usage"

MOST_DAYS = 366
MOST_SHOWN = 20  # keys, and models
PLOTTED = 6  # models with a plot of their own, as in usage.js


@blueprint.get("/usage")
def page() -> str:
    services = current_services()
    admin = bool(services.keys.needed) and services.keys.is_admin(api.owner())
    has_ledger, stored = services.ledger is not None, services.conversations is not None
    priced = bool(services.settings.price)
    return render_template("usage.html", admin=admin, kept=has_ledger, stored=stored, priced=priced)


@blueprint.get(API)
def sums() -> Response:
    """Return sums by day, model and (for administrators) key, and what is used of own limits."""
    services, key = current_services(), api.owner()
    days = count_of(request.args, "days", 30, MOST_DAYS)
    only: Mapping[str, Sequence[str]] | None = {"key": (key,)}
    if everyone(request.args):
        permissions.check_admin(services, key)
        only = None
    limits: Sequence[LimitStatus] = ()
    if only is not None:
        with suppress(LimitsUnavailable):  # the sums are there all the same
            limits = services.callers.limit_statuses(request.environ)
    return json_response({**_sums(services, days, only), "limits": limits})


@blueprint.get(f"{API}/export")
def export() -> Response:
    """The requests as CSV, as /v1/usage/export for a key."""
    return json_view(usage.export)


def _sums(
    services: Services, days: int, only: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    tomorrow = int(time.time()) // DAY * DAY + DAY
    begin = tomorrow - days * DAY
    ledger = usage.opened(services).groups
    groups = partial(ledger, 1000 * begin, 1000 * tomorrow, only=only, limit=usage.MOST_GROUPS)
    by_day = groups(width=1000 * DAY)
    models = groups(by=("model",), largest=True, limit=MOST_SHOWN)
    plotted = {"model": [group.names["model"] for group in models[:PLOTTED]]}
    by_model = groups(width=1000 * DAY, by=("model",), only={**(only or {}), **plotted})
    keys = groups(by=("key",), largest=True, limit=MOST_SHOWN) if only is None else ()
    people = groups(by=("user",), largest=True, limit=MOST_SHOWN)
    shown = {"by_day": _shown(by_day), "by_model": _shown(by_model), "models": _shown(models)}
    shown["keys"] = _shown(keys)
    shown["users"] = _shown(people) if len(people) > 1 else []  # one person needs no table
    for group in shown["keys"]:
        group["name"] = services.keys.shown(group["key"]) or "–"
    total = query.counts(query.added(by_day))
    if prices := services.settings.price:
        price = query.pricing(prices)
        _add_money(shown["models"], models, price, "model")
        daily = groups(width=1000 * DAY, by=("model",))
        total["money"] = _add_money(shown["by_day"], daily, price, "at")
        named = {"key": [group["key"] for group in shown["keys"]]}
        if keys:
            _add_money(shown["keys"], groups(by=("key", "model"), only=named), price, "key")
        if shown["users"]:
            persons = [group["user"] for group in shown["users"]]
            by_user = groups(by=("user", "model"), only={**(only or {}), "user": persons})
            _add_money(shown["users"], by_user, price, "user")
    return {"begin": begin, "days": days, "total": total, **shown}


def _shown(groups: Sequence[LedgerGroup]) -> list[dict[str, Any]]:
    return [
        {"at": group.begin // 1000, **group.names, **query.counts(group.sums)} for group in groups
    ]


def _add_money(
    shown: Sequence[dict[str, Any]], groups: Sequence[LedgerGroup], price: query.Pricing, name: str
) -> float:
    """Add to each group what its requests cost, from sums by model. Returns what all cost."""
    spent: dict[object, float] = defaultdict(float)
    for group in groups:
        whose = group.begin // 1000 if name == "at" else group.names[name]
        spent[whose] += price(group.names["model"], group.sums)
    for each in shown:
        each["money"] = round(spent[each[name]], 6)
    return round(sum(spent.values()), 6)
