"""The envelope of every answer.

Chatchat's servers report errors in `code` with HTTP status 200, and its client checks nothing else.
The same holds here for errors specific to this API (unknown base, name taken). Errors of the
gateway (API key, full queue) also set the HTTP status, equal to `code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import GatewayError


def ok(data: Any = None, msg: str = "success") -> dict[str, Any]:
    return {"code": 200, "msg": msg, "data": data}


def error(fault: GatewayError) -> dict[str, Any]:
    return {"code": fault.status, "msg": fault.message, "data": None}


def error_of_list(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return a list: the client iterates over `data` whatever `code`
    is."""
    return {"code": fault.status, "msg": fault.message, "data": []}


def error_of_table(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return an object."""
    return {"code": fault.status, "msg": fault.message, "data": {}}


def failed(names: Sequence[tuple[str, str]], msg: str) -> dict[str, Any]:
    """The answer of routes that take several files: the error for each that failed."""
    return ok({"failed_files": dict(names)}, msg)
