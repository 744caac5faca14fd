"""Why the server of a model does not run. Clients see the message, and the operator's page also
the cause, for which it has a remedy."""

from __future__ import annotations

from typing import Literal

from ..backends.refusals import LOAD_FAILED
from ..errors import GatewayError, UpstreamFault

Cause = Literal["ended", "late", "not_started", "unsuitable", "died", "too_large", "other"]


class LoadFailed(UpstreamFault):
    """`lines` are the last ones that the server printed, safe for clients.

    `cause`: "ended" while it loaded, "late": not ready within start_timeout, "not_started": no such
    program, "unsuitable": a server that cannot be a model, "died" after it was loaded."""

    code = LOAD_FAILED

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = "other",
        lines: str = "",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        end = f"\nIts last lines:\n{lines}" if lines else ""
        super().__init__(message + end, param=param, code=code, retry_after=retry_after)
        self.summary = message
        self.cause = cause
        self.lines = lines


def cause_of(error: GatewayError) -> Cause:
    if isinstance(error, LoadFailed):
        return error.cause
    return "too_large" if error.code == "model_too_large" else "other"
