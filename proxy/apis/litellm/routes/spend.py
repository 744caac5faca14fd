"""LiteLLM's routes for what was used, from the ledger. Administrators see all keys, others their
own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from flask import request
from msgspec import structs

from ....accounts import key_text
from ....accounts.limiting.budgets import Price, Used, cost, price_of
from ....errors import BadRequest, NotFound
from ....store.ledger_rows import LedgerGroup, LedgerRow, LedgerSums
from ....web import seen
from ....web.observability import Record
from ....web.services import Services
from ....web.spine import json_route
from ...usage import routes as usage
from .. import spend
from .common import blueprint

MOST_LOGS = 1000  # requests of an answer

Only = Mapping[str, Sequence[str]]


@json_route(blueprint, "GET", "/spend/logs", group="")
def spend_logs(services: Services, record: Record) -> Any:
    """What was used by day, or the requests; for others than administrators, the caller's."""
    asked = spend.parse_logs(request.args, time.time())
    only = _scope(services, record, asked.only)
    ledger = usage.opened(services)
    if asked.summed:
        return spend.by_day(_groups(services, asked.begin, asked.end, ("user", "model"), only))
    if asked.request:
        only = {**only, "request": (asked.request,)}
    found = list(islice(ledger.rows(asked.begin, asked.end, only), MOST_LOGS + 1))
    if len(found) > MOST_LOGS:
        raise BadRequest(f"these are more than {MOST_LOGS} requests: ask for fewer days, or a key")
    price = _pricing(services)
    return [
        spend.log(_of_row(row, price(row.model)), row.request, row.ended, row.api, row.outcome)
        for row in found
    ]


@json_route(blueprint, "GET", "/global/spend/report")
def spend_report(services: Services, record: Record) -> Any:
    """What teams or keys used; for administrators."""
    seen.check_admin(services, record.key)
    asked = spend.parse_report(request.args)
    only = {name: (_named(services, value),) for name, value in asked.only.items()}
    names = ("key", "team", "model")
    if asked.by == "api_key":
        return spend.by_key(_groups(services, asked.begin, asked.end, names, only))
    used = _groups(services, asked.begin, asked.end, names, only)
    return spend.by_team(used, lambda team: _alias(services, team))


def _scope(services: Services, record: Record, asked: Mapping[str, str]) -> Only:
    """The filter of rows: those of the caller's key, unless it administers. Raises Forbidden."""
    only = {name: (_named(services, value),) for name, value in asked.items()}
    if seen.is_admin(services, record.key):
        return only
    if only.get("key", (record.key,)) != (record.key,):
        seen.check_admin(services, record.key)
    return {**only, "key": (record.key,)}


def _named(services: Services, value: str) -> str:
    """The id of a key that is given as LiteLLM's clients do: by its secret, digest or id. Other
    values stay."""
    is_key = value.startswith(key_text.PREFIX) or len(value) == key_text.DIGEST
    if services.accounts is None or not is_key:
        return value
    try:
        return services.accounts.keys.read(value).id
    except NotFound:
        return value


def _groups(
    services: Services, begin: int, end: int, names: Sequence[str], only: Only
) -> list[spend.Used]:
    found = usage.groups(
        usage.opened(services), begin, end, width=spend.DAY, by=tuple(names), only=only
    )
    price = _pricing(services)
    return [_of_group(one, price(one.names["model"])) for one in found]


def _pricing(services: Services) -> Callable[[str], Price]:
    """What the tokens of a model cost."""
    prices = [Price(**structs.asdict(one)) for one in services.settings.price]
    return lambda model: price_of(prices, model)


def _of_group(group: LedgerGroup, price: Price) -> spend.Used:
    names: Mapping[str, Any] = group.names
    sums = group.sums
    return spend.Used(
        at=group.begin,
        **names,
        prompt=sums.prompt,
        completion=sums.completion,
        money=_money(sums, price),
    )


def _of_row(row: LedgerRow, price: Price) -> spend.Used:
    return spend.Used(
        at=row.ended - round(1000 * row.seconds),
        key=row.key,
        user=row.user,
        team=row.team,
        model=row.model,
        prompt=row.prompt,
        completion=row.completion,
        money=_money(row, price),
    )


def _money(counts: LedgerSums | LedgerRow, price: Price) -> float:
    used = Used(counts.prompt, counts.cached, counts.completion, counts.slot_seconds)
    return cost("money", used, price, cached_weight=1.0)


def _alias(services: Services, team: str) -> str:
    """The name of a team for people."""
    if services.accounts is None:
        return team
    try:
        return services.accounts.teams.store.read(team).alias or team
    except NotFound:
        return team  # deleted since
