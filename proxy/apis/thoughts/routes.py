"""POST /v1/requests/ID/end-thinking: the answer begins now. A key ends the reasoning of its own
requests, an administrator's that of all."""

from __future__ import annotations

from typing import Any

from ...errors import NotFound
from ...web import permissions
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route

blueprint = Api("thoughts", __name__, group="", tag="slotproxy")


@json_route(blueprint, "POST", "/v1/requests/<name>/end-thinking")
def end_thinking(services: Services, record: Record, name: str) -> Any:
    """End the reasoning of a request that runs, by its `x-request-id`: its answer begins. A backend
    that parses reasoning itself goes on."""
    everyone = permissions.is_admin(services, record.key)
    count = services.observer.hurry(name, lambda key: everyone or key == record.key)
    if not count:
        raise NotFound(
            f"no request {name[:100]!r} of this key is running in this process: it may have ended"
        )
    return {"id": name, "object": "request", "hurried": count}
