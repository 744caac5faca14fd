"""The page of API keys, users and teams. Its script calls LiteLLM's routes with a session."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from flask import render_template

from ...accounts.rights import APIS
from ...apis import added
from ...apis.litellm import routes as litellm
from ...apis.usage import routes as usage
from .. import permissions
from ..ledger import query
from ..observability import Record
from ..services import Services, current_services
from ..spine import json_view
from . import api, guard

API = "/pages/api/accounts"
USED_DAYS = 90  # of which the list of keys has the use


def list_keys(services: Services, record: Record) -> Any:
    """The keys, with the last use of each and what it used in USED_DAYS days."""
    page = litellm.list_keys(services, record)
    keys = {key["key_id"]: key for key in page["keys"] if isinstance(key, dict)}
    if services.ledger is None or not keys:
        return page
    now, price = int(1000 * time.time()), query.pricing(services.settings.price)
    begin, only = now - USED_DAYS * usage.DAY_MS, {"key": [*keys]}
    ledger = services.ledger.ledger
    sums = ledger.groups(begin, now + 1, by=("key", "model"), only=only, limit=usage.MOST_GROUPS)
    for name, key in keys.items():
        own = [group for group in sums if group.names["key"] == name]
        key["used"] = {
            "last": max((group.last / 1000 for group in own), default=None),
            **query.counts(query.added(own)),
            "money": round(sum(price(group.names["model"], group.sums) for group in own), 6),
        }
    return page


# Without the versions in some paths: the later one of a path counts.
VIEWS = {
    path.removeprefix("/v1").removeprefix("/v2"): (method, view)
    for method, path, view in litellm.ADMIN_VIEWS
} | {"/key/list": ("GET", list_keys)}

blueprint = guard.guarded("panel_accounts", group="admin")


@blueprint.get("/keys")
def page() -> str:
    """Raises Forbidden."""
    services = current_services()
    permissions.check_admin(services, api.owner())
    root = services.settings.api_prefix + API
    has_accounts = services.accounts is not None
    priced = bool(services.settings.price)
    return render_template(
        "accounts.html", api=root, kept=has_accounts, apis=(*APIS, *added()), priced=priced
    )


for _path, (_method, _view) in VIEWS.items():
    blueprint.add_url_rule(f"{API}{_path}", _path, partial(json_view, _view), methods=[_method])
