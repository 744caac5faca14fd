"""GET /v1/usage and its export: sums and rows of the ledger.

A key sees its own requests; the keys of `--admins`, or all callers if no key is needed, see all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from flask import Response, request

from ...errors import BadRequest, InvalidParameter, NotFound
from ...web import permissions
from ...web.ledger import query
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route, passthrough

if TYPE_CHECKING:
    from ...store.ledger import Ledger
    from ...store.ledger_rows import LedgerGroup

blueprint = Api("usage", __name__, group="status", tag="slotproxy")

MOST_GROUPS = 20_000  # rows of an answer
DAY_MS = 86_400_000
FORMATS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


@json_route(blueprint, "GET", "/v1/usage", group="")
def own(services: Services, record: Record) -> Any:
    """Requests, tokens and times of the caller's key by day; with `scope=all`, of all keys."""
    by = query.group_by(request.args)
    begin, end = query.time_range(request.args, time.time())
    begin -= begin % 3600  # the first hour counts as a whole
    only, tag = _scope(services, record), request.args.get(query.TAG, "")
    has_tags = bool(tag) or query.TAG in by
    named = tuple(name for name in by if name != query.TAG) + ("tags",) * has_tags
    sums = groups(opened(services), 1000 * begin, 1000 * end, width=DAY_MS, by=named, only=only)
    grouped = query.by_tag(sums, by, tag) if has_tags else sums
    total = query.by_tag(sums, (), tag) if has_tags else sums
    return query.by_day(begin, end, grouped, services.keys.shown, total)


@json_route(blueprint, "GET", "/v1/usage/export", answer="text/csv", group="")
def export(services: Services, record: Record) -> Response:
    """The ledger of the caller's key as CSV or JSON lines, by the query's `format`."""
    form = request.args.get("format") or "csv"
    if form not in FORMATS:
        raise InvalidParameter("format", f"must be one of {', '.join(FORMATS)}")
    begin, end = query.time_range(request.args, time.time())
    only = _scope(services, record)
    rows = opened(services).rows(1000 * begin, 1000 * end, only)
    write = query.as_csv if form == "csv" else query.as_json_lines
    rows = query.with_tag(rows, request.args.get(query.TAG, ""))
    parts = write(rows, permissions.shown_names(services, record.key))
    first = next(parts)  # raises if the database is unavailable
    name = f'attachment; filename="usage.{form}"'
    headers = [("Content-Disposition", name)]
    return passthrough(chain((first,), parts), FORMATS[form], headers)


def opened(services: Services) -> Ledger:
    """Raises NotFound if there is no ledger."""
    if services.ledger is None:
        raise NotFound("usage is not recorded: see --data, --ledger-days and the extra `knowledge`")
    return services.ledger.ledger


def _scope(services: Services, record: Record) -> Mapping[str, Sequence[str]] | None:
    """The filter of rows that the caller may see. Raises Forbidden, InvalidParameter."""
    if not query.everyone(request.args):
        return {"key": (record.key,)}
    permissions.check_admin(services, record.key)
    return None


def groups(ledger: Ledger, begin: int, end: int, **how: Any) -> Sequence[LedgerGroup]:
    """Raises BadRequest if there are too many."""
    sums = ledger.groups(begin, end, limit=MOST_GROUPS + 1, **how)
    if len(sums) > MOST_GROUPS:
        raise BadRequest(
            f"these are more than {MOST_GROUPS} sums: ask for a shorter time or fewer groups"
        )
    return sums
