"""GET /v1/slots: what the slots hold, who waits, and how often something cached was found.

No text of a prompt is in it, and of other groups no more than that a slot is theirs.
"""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response, request

from . import seen
from .exchange import plain
from .observe import Record
from .services import Services

blueprint = Blueprint("slots", __name__)


@blueprint.get("/v1/slots")
def slots() -> Response:
    def view(here: Services, record: Record) -> Any:
        caller = here.callers.caller(record.key, request.environ)
        return {"object": "slots", **msgspec.to_builtins(seen.view(here, caller))}

    return plain(view)
