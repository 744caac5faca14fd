"""The page of API keys, users and teams, for administrators. Its script calls LiteLLM's routes
under a path of the pages, with a session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import render_template

from ...accounts.rights import APIS
from ...apis import added
from ...apis.litellm import routes as litellm
from .. import permissions
from ..observability import Record
from ..services import Services, current_services
from ..spine import json_view
from . import api, guard

API = "/pages/api/accounts"
VIEWS: tuple[tuple[str, str, Callable[[Services, Record], Any]], ...] = (
    ("GET", "/key/list", litellm.list_keys),
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
    return render_template("accounts.html", api=root, kept=has_accounts, apis=(*APIS, *added()))


for _method, _path, _view in VIEWS:
    blueprint.add_url_rule(f"{API}{_path}", _path, partial(json_view, _view), methods=[_method])
