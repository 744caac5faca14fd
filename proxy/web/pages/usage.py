"""The usage page: requests by day and model, and what is used of the limits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Response, render_template, request

from ...accounts.limiting.allowance import LimitStatus
from ...apis.fields import decimal
from ...apis.usage import routes as usage
from ...errors import InvalidParameter, LimitsUnavailable
from ...store.ledger_rows import LedgerGroup
from .. import permissions
from ..ledger import query
from ..ledger.query import DAY, everyone
from ..services import Services, current_services
from ..spine import json_response
from . import api, guard

blueprint = guard.guarded("panel_usage")

MOST_DAYS = 366
MOST_SHOWN = 20  # keys, and models
PLOTTED = 6  # models with a plot of their own, as in usage.js


@blueprint.get("/usage")
def page() -> str:
    services = current_services()
    admin = bool(services.keys.needed) and permissions.is_admin(services, api.owner())
    kept, stored = services.ledger is not None, services.conversations is not None
    return render_template("usage.html", admin=admin, kept=kept, stored=stored)


@blueprint.get("/pages/api/usage")
def sums() -> Response:
    """Return sums by day, model and (for administrators) key, and what is used of own limits."""
    services, key = current_services(), api.owner()
    days = decimal(request.args.get("days") or "30", 1, MOST_DAYS)
    if days is None:
        raise InvalidParameter("days", f"must be from 1 to {MOST_DAYS}")
    only: Mapping[str, Sequence[str]] | None = {"key": (key,)}
    if everyone(request.args):
        permissions.check_admin(services, key)
        only = None
    limits: Sequence[LimitStatus] = ()
    if only is not None:
        with suppress(LimitsUnavailable):  # the sums are there all the same
            limits = services.callers.limit_statuses(request.environ)
    return json_response({**_sums(services, days, only), "limits": limits})


def _sums(
    services: Services, days: int, only: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    tomorrow = int(time.time()) // DAY * DAY + DAY
    begin = tomorrow - days * DAY
    ledger = usage.opened(services).groups
    groups = partial(ledger, 1000 * begin, 1000 * tomorrow, only=only, limit=MOST_DAYS * MOST_SHOWN)
    by_day = groups(width=1000 * DAY)
    models = groups(by=("model",), largest=True, limit=MOST_SHOWN)
    plotted = {"model": [group.names["model"] for group in models[:PLOTTED]]}
    by_model = groups(width=1000 * DAY, by=("model",), only={**(only or {}), **plotted})
    keys = groups(by=("key",), largest=True, limit=MOST_SHOWN) if only is None else ()
    return {
        "begin": begin,
        "days": days,
        "total": query.counts(query.added(by_day)),
        "by_day": _shown(by_day),
        "by_model": _shown(by_model),
        "models": _shown(models),
        "keys": [
            {**group, "name": services.keys.shown(group["key"]) or "–"} for group in _shown(keys)
        ],
    }


def _shown(groups: Sequence[LedgerGroup]) -> list[dict[str, Any]]:
    return [
        {"at": group.begin // 1000, **group.names, **query.counts(group.sums)} for group in groups
    ]
