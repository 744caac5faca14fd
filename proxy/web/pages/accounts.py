"""The page of API keys, users and teams, for administrators. Its script calls LiteLLM's routes
under a path of the pages, with a session.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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


VIEWS: tuple[tuple[str, str, Callable[[Services, Record], Any]], ...] = (
    ("GET", "/key/list", list_keys),
    ("POST", "/key/invite", litellm.invite),
    ("POST", "/key/generate", litellm.generate_key),
    ("POST", "/key/update", litellm.update_key),
    ("POST", "/key/regenerate", litellm.regenerate_key),
    ("POST", "/key/block", litellm.block_key),
    ("POST", "/key/unblock", litellm.block_key),
    ("POST", "/key/delete", litellm.delete_keys),
    ("GET", "/user/list", litellm.list_users),
    ("POST", "/user/new", litellm.new_user),
    ("POST", "/user/update", litellm.update_user),
    ("POST", "/user/delete", litellm.delete_users),
    ("GET", "/team/list", litellm.teams_page),
    ("POST", "/team/new", litellm.new_team),
    ("POST", "/team/update", litellm.update_team),
    ("POST", "/team/block", litellm.block_team),
    ("POST", "/team/unblock", litellm.block_team),
    ("POST", "/team/delete", litellm.delete_teams),
    ("POST", "/team/member_add", litellm.add_members),
    ("POST", "/team/member_delete", litellm.remove_member),
    ("GET", "/audit", litellm.list_changes),
)

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


for _method, _path, _view in VIEWS:
    blueprint.add_url_rule(f"{API}{_path}", _path, partial(json_view, _view), methods=[_method])
