"""Every error that can reach a client, in one shallow tree.

`message` is one sentence for clients, so it never contains an address, a path, a prompt or a
traceback; `details` are lines beside it, such as the last ones of a model's log. Operators read
both with addresses and paths (`private`). `detail` is for our own log. The dialect decides the JSON
of an error.
"""

from __future__ import annotations

from collections.abc import Callable


class GatewayError(Exception):
    """The base of all errors, with the fields of every dialect's error object. A subclass inherits
    the status, the type and the code that it does not name."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init_subclass__(
        cls, status: int | None = None, type: str | None = None, code: str | None = None
    ) -> None:
        cls.status = cls.status if status is None else status
        cls.type = cls.type if type is None else type
        cls.code = cls.code if code is None else code

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        detail: str = "",
        details: str = "",
        private: tuple[str, str] | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after = retry_after
        self.detail = detail
        self.details = details
        self.private = private  # message and details
        self.extra = extra or {}

    def show_to(self, shown: Callable[[str], str] | None) -> None:
        """Word it for a caller to whom `shown` gives the names of backends: `str` for an operator,
        None for one of whom nothing is known."""
        if shown is str and self.private is not None:
            self.message, self.details = self.private

    @property
    def more(self) -> dict[str, str]:
        """What an error object has beside the message."""
        return {"details": self.details} if self.details else {}


# The request is wrong.


class BadRequest(GatewayError, status=400, type="invalid_request_error"):
    pass


class InvalidParameter(BadRequest):
    """An invalid value of a parameter. `param` is its name in the request (`messages[2].role`);
    `reason` is the rest of the sentence."""

    param: str

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"{param} {reason}", param=param)
        self.reason = reason


class ContextExceeded(BadRequest, type="exceed_context_size_error", code="context_length_exceeded"):
    """The prompt does not fit. `extra` has n_prompt_tokens and n_ctx, as in llama-server.
    `at_least`: the number of tokens is a lower bound, because counting was ended."""

    def __init__(self, n_prompt_tokens: int, n_ctx: int, at_least: bool = False) -> None:
        least = "at least " if at_least else ""
        super().__init__(
            f"the prompt exceeds the available context size: it has {least}{n_prompt_tokens}"
            f" tokens, but the model's context is {n_ctx} tokens",
            param="messages",
            extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx},
        )


class Unsupported(BadRequest, code="unsupported_parameter"):
    """The model's backend does not support a parameter."""


class BackendLacks(Unsupported, status=501, type="not_supported_error"):
    """The backend answered 501: it was built or started without a feature the request needs."""


class FormatRefused(Unsupported):
    """The backend refuses tools or schemas. `formats` are those to describe in the messages
    instead, by their names in `core.request`: in all requests if the server `lacks` them."""

    def __init__(
        self, message: str, formats: frozenset[str], *, lacks: bool, param: str, detail: str
    ) -> None:
        super().__init__(message, param=param, detail=detail)
        self.formats = formats
        self.lacks = lacks


class CharacterCut(BadRequest):
    """Token ids that end within a character, which an old server cannot write as text."""


class BodyTooLarge(BadRequest, status=413, code="request_too_large"):
    pass


class NotFound(GatewayError, status=404, type="not_found_error"):
    pass


class ModelNotFound(NotFound, code="model_not_found"):
    """`models` are the names of those that exist, which not every caller may know; `name` is the
    one that was asked for."""

    models: tuple[str, ...] = ()
    name = ""


class MethodNotAllowed(GatewayError, status=405, type="invalid_request_error"):
    pass


# Who asks may not.


class Unauthorized(GatewayError, status=401, type="authentication_error", code="invalid_api_key"):
    pass


class KeyBlocked(Unauthorized):
    """The API key, its user or its team is blocked. The message says which."""


class KeyExpired(Unauthorized):
    """The API key, or its secret before the last rotation, has expired."""


class Forbidden(GatewayError, status=403, type="permission_error"):
    pass


class QuotaExceeded(Forbidden):
    """A key has reached its limit. The message names the limit and how to raise it."""

    code = "quota_exceeded"


class QueueFull(GatewayError, status=429, type="rate_limit_error", code="queue_full"):
    pass


class NoIdleSlot(GatewayError, status=429, type="rate_limit_error", code="no_idle_slot"):
    """A request that uses idle slots only found none. Batches send such requests, and try again."""


class TooManyWrongKeys(
    GatewayError, status=429, type="rate_limit_error", code="too_many_wrong_keys"
):
    pass


class LimitReached(GatewayError, status=429, type="rate_limit_error", code="rate_limit_exceeded"):
    """A limit of the key, its user or its team. Without `retry_after`, trying again is useless."""


class BudgetExceeded(LimitReached, type="budget_exceeded", code="budget_exceeded"):
    """The key, its user or its team has spent its budget. The type is that of LiteLLM."""


# The gateway cannot serve it now.


class QueueTimeout(GatewayError, status=503, type="unavailable_error", code="queue_timeout"):
    pass


class NoBackend(GatewayError, status=503, type="unavailable_error", code="no_backend"):
    """`backend` is the name of one that is down, and `reason` the rest of the sentence."""

    backend = reason = ""

    def __init__(
        self, message: str = "no backend for this model is available", retry_after: float = 1.0
    ) -> None:
        super().__init__(message, retry_after=retry_after)

    def show_to(self, shown: Callable[[str], str] | None) -> None:
        if shown is not None and self.backend:
            cure = "; slotproxy doctor says what to do" if shown is str else ""
            self.message = f"the backend {shown(self.backend)} {self.reason}{cure}"


class StoreUnavailable(
    GatewayError, status=503, type="unavailable_error", code="store_unavailable"
):
    """A database, or its file, cannot be used."""


class LimitsUnavailable(
    GatewayError, status=503, type="unavailable_error", code="limits_unavailable"
):
    """Redis, which holds what is used of the limits, cannot be reached."""


# The backend failed.


class UpstreamFault(GatewayError, status=502, code="upstream_fault"):
    pass


class MissingRoute(UpstreamFault):
    """The backend answered 404 or 405: it lacks this endpoint. Others may work."""


class AnswerCut(UpstreamFault):
    """The connection ended within an answer. The server may have died."""


class BackendFailed(UpstreamFault):
    """The backend reported a failure of its own."""


class BackendBusy(UpstreamFault, code="upstream_busy"):
    """Its slots are taken after all; the gateway tries again."""


class PoolTimeout(BackendBusy, status=503, type="unavailable_error", code="pool_timeout"):
    """No connection to the backend became free in time. It says nothing about its health."""


class BackendDown(UpstreamFault, code="upstream_down"):
    """It refuses connections, or is not ready."""


class Unreachable(BackendDown):
    """There is no connection to it: refused, timed out, no such host."""


class ConnectionLost(BackendDown):
    """The connection ended after the request was sent, which may have crashed the server."""


class UpstreamTimeout(GatewayError, status=504, type="timeout_error", code="upstream_timeout"):
    pass


# Nobody needs the answer any more.


class Cancelled(GatewayError, status=499, type="cancelled", code="client_closed_request"):
    """The client has disconnected: nobody reads this."""


class Ended(Cancelled):
    """The gateway itself ends a running request. Its client is still there and reads why."""


class GatewayStopping(Ended, status=503, type="unavailable_error", code="gateway_stopping"):
    def __init__(self) -> None:
        super().__init__(
            "the gateway is stopping and has ended this request: send it again in a moment",
            retry_after=5.0,
        )


class KeyEnded(Ended, status=401, type="authentication_error", code="invalid_api_key"):
    """The API key of a running request is no longer accepted. The message says why."""


class RequestCancelled(Ended, status=409, type="cancelled", code="request_cancelled"):
    def __init__(self, by: str) -> None:
        """`by` names the key that has cancelled it, "" where none is needed."""
        whom = f"by the API key {by!r}" if by else "on the requests page, or by its route"
        super().__init__(f"this request was cancelled {whom}")

    @property
    def more(self) -> dict[str, str]:
        """The code, since the errors of Anthropic and Ollama have none."""
        return super().more | {"code": "request_cancelled"}


class DataDeleted(Ended, status=409, type="invalid_request_error", code="data_deleted"):
    def __init__(self) -> None:
        super().__init__("the data of this API key was deleted, and this answer with it")
