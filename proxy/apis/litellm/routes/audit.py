"""GET /v1/audit: who changed which key, user or team, for administrators."""

from __future__ import annotations

from typing import Any

from flask import request

from ....web.observability import Record
from ....web.services import Services
from ....web.spine import json_route
from ..keys import changes_list, parse_changes
from .common import administered, blueprint


@json_route(blueprint, "GET", "/v1/audit", tag="slotproxy")
def list_changes(services: Services, record: Record) -> Any:
    """Who changed which key, user or team; by `subject`, `before` and `limit`; for
    administrators."""
    accounts = administered(services, record).keys
    page = parse_changes(request.args)
    return changes_list(accounts.entries(page.subject, page.before, page.limit))
