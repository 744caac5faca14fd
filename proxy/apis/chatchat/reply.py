"""The envelope of every answer.

Chatchat's servers report errors in `code` with HTTP status 200, and its client checks nothing else.
The same holds here for errors specific to this API (unknown base, name taken). Errors of the
gateway (API key, full queue) also set the HTTP status, equal to `code`. An invalid body is a 422
with FastAPI's `detail` beside the envelope, since these servers are written with FastAPI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import BadRequest, GatewayError, InvalidParameter

INVALID = 422  # FastAPI's status for a body that it cannot validate


def ok(data: Any = None, msg: str = "success") -> dict[str, Any]:
    return {"code": 200, "msg": msg, "data": data}


def status(fault: GatewayError) -> int:
    """The status of an error in this API."""
    return INVALID if type(fault) in (BadRequest, InvalidParameter) else fault.status


def error(fault: GatewayError, data: Any = None) -> dict[str, Any]:
    code = status(fault)
    told: dict[str, Any] = {"code": code, "msg": fault.message, "data": data}
    if code == INVALID:
        place = ["body", *filter(None, [fault.param])]
        told["detail"] = [{"loc": place, "msg": fault.message, "type": "value_error"}]
    return told


def error_of_list(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return a list: the client iterates over `data` whatever `code`
    is."""
    return error(fault, [])


def error_of_table(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return an object."""
    return error(fault, {})


def failed(names: Sequence[tuple[str, str]], msg: str) -> dict[str, Any]:
    """The answer of routes that take several files: the error for each that failed."""
    return ok({"failed_files": dict(names)}, msg)
