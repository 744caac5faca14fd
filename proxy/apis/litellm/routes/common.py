"""Common parts of the routes that manage accounts."""

from __future__ import annotations

from typing import Any

from flask import request

from ....accounts.service import Accounts
from ....errors import NotFound
from ....web import body, seen
from ....web.observability import Record
from ....web.routes import Api
from ....web.services import Services

blueprint = Api("accounts", __name__, group="admin", tag="LiteLLM")


def opened(services: Services) -> Accounts:
    """Raises NotFound if the gateway keeps no keys."""
    if services.accounts is None:
        raise NotFound(
            "this gateway keeps no API keys in its store: start it with API keys, --admins, and the"
            " extra slotproxy[knowledge]"
        )
    return services.accounts


def administered(services: Services, record: Record) -> Accounts:
    """The accounts, for an administrator. Raises Forbidden and NotFound."""
    seen.check_admin(services, record.key)
    return opened(services)


def json_body(services: Services) -> dict[str, Any]:
    return body.read_json(request.environ, services.settings.max_body)
