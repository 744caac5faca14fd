"""GET /v1/slots: the contents of slots, the queue, and cache hit rates.

It contains no prompt text. Slots of other groups are only marked as such.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from . import seen
from .observability import Record
from .services import Services
from .spine import json_view

blueprint = Blueprint("slots", __name__)


@blueprint.get("/v1/slots")
def slots() -> Response:
    def view(services: Services, record: Record) -> Any:
        caller = services.callers.caller(record.key, request.environ)
        return {"object": "slots", **msgspec.to_builtins(seen.view(services, caller))}

    return json_view(view)
