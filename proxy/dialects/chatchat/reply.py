"""What every answer is wrapped in.

Its own servers say what went wrong in `code`, under HTTP 200: its client looks at nothing else. So
do we for what only this API knows (no such base, the name is taken); what the gateway refuses (a
key, a full queue) has its HTTP status as well, and `code` is the same number.
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
    """Where a list is expected, its client goes through `data` whatever `code` says."""
    return {"code": fault.status, "msg": fault.message, "data": []}


def error_of_table(fault: GatewayError) -> dict[str, Any]:
    """The same where an object is expected."""
    return {"code": fault.status, "msg": fault.message, "data": {}}


def failed(names: Sequence[tuple[str, str]], msg: str) -> dict[str, Any]:
    """The answer of a route that takes several files: what went wrong with which."""
    return ok({"failed_files": dict(names)}, msg)
