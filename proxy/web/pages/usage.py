"""The usage page: the caller's requests by day and model; for administrators, everybody's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request

from ...dialects.fields import decimal
from ...errors import Forbidden, InvalidParameter
from ...store.ledger_rows import LedgerGroup
from .. import seen, usage
from ..ledger import shapes
from ..ledger.query import DAY, everyone
from ..services import Services, current_services
from ..spine import json_response
from . import api, guard

blueprint = Blueprint("panel_usage", __name__)
guard.protect(blueprint)

MOST_DAYS = 366
MOST_SHOWN = 20  # keys, and models


@blueprint.get("/usage")
def page() -> Response:
    services = current_services()
    admin = bool(services.keys.needed) and seen.is_admin(services, api.owner())
    return make_response(render_template("usage.html", admin=admin, kept=bool(services.ledger)))


@blueprint.get("/pages/api/usage")
def sums() -> Response:
    """Return sums by day, by model, and for administrators by key. Raises InvalidParameter,
    Forbidden, NotFound."""
    services, key = current_services(), api.owner()
    days = decimal(request.args.get("days") or "30", 1, MOST_DAYS)
    if days is None:
        raise InvalidParameter("days", f"must be from 1 to {MOST_DAYS}")
    only: Mapping[str, Sequence[str]] | None = {"key": (key,)}
    if everyone(request.args):
        if not seen.is_admin(services, key):
            raise Forbidden("this requires an admin API key: see the setting admins")
        only = None
    response = json_response(_sums(services, days, only))
    response.headers["Cache-Control"] = "no-store"
    return response


def _sums(
    services: Services, days: int, only: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    tomorrow = int(time.time()) // DAY * DAY + DAY
    begin = tomorrow - days * DAY
    groups = partial(usage.groups, usage.opened(services), 1000 * begin, 1000 * tomorrow, only=only)
    by_day = groups(width=1000 * DAY, by=("model",))
    by_model = groups(by=("model",))
    by_key = groups(by=("key",)) if only is None else ()
    return {
        "begin": begin,
        "days": days,
        "total": shapes.counts(shapes.added(by_model)),
        "by_day": [
            {"at": one.begin // 1000, **one.names, **shapes.counts(one.sums)} for one in by_day
        ],
        "models": _largest(by_model),
        "keys": [
            {**one, "name": services.keys.shown(one["key"]) or "–"} for one in _largest(by_key)
        ],
    }


def _largest(groups: Sequence[LedgerGroup]) -> list[dict[str, Any]]:
    largest = sorted(groups, key=lambda one: one.sums.prompt + one.sums.completion, reverse=True)
    return [{**one.names, **shapes.counts(one.sums)} for one in largest[:MOST_SHOWN]]
