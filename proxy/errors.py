"""Every error that can reach a client, in one shallow tree.

    GatewayError                     500  server_error
    ├── BadRequest                   400  invalid_request_error
    │   ├── ContextExceeded          400  exceed_context_size_error, both numbers
    │   ├── Unsupported              400  names the parameter and the backend
    │   │   └── BackendLacks         501  the backend itself says that it cannot
    │   ├── CharacterCut             400  token ids that the backend cannot write as text
    │   └── BodyTooLarge             413
    ├── Unauthorized                 401  authentication_error
    ├── Forbidden                    403  permission_error
    │   └── QuotaExceeded            403  names the limit and its setting
    ├── NotFound                     404  not_found_error (ModelNotFound: code model_not_found)
    ├── MethodNotAllowed             405
    ├── QueueFull                    429  rate_limit_error, retry_after
    ├── TooManyWrongKeys             429  rate_limit_error, retry_after
    ├── QueueTimeout                 503  unavailable_error, retry_after
    ├── NoBackend                    503  unavailable_error, retry_after
    ├── StoreUnavailable             503  unavailable_error, retry_after: a database, or its file
    ├── UpstreamFault                502  server_error: garbage, a 5xx
    │   ├── AnswerCut                the connection ended in the middle of the answer
    │   ├── BackendFailed            it says so itself: a 5xx, an error in its stream
    │   ├── BackendBusy              its slots are taken after all; the gateway tries again
    │   │   └── PoolTimeout     503  all our connections to it stayed in use
    │   └── BackendDown              nobody listens there, or the server is not ready
    │       └── ConnectionLost       the connection ended before the first byte of the answer
    ├── UpstreamTimeout              504  timeout_error
    └── Cancelled                    499  the client is gone; nobody reads this

`message` is what the client reads, so it never holds an address, a prompt or a traceback;
`detail` is for our own log. A dialect gives an error its outer shape.
"""

from __future__ import annotations


class GatewayError(Exception):
    """An error with the fields that every dialect's error object is made of."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        detail: str = "",
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code
        self.retry_after = retry_after
        self.detail = detail
        self.extra = extra or {}


class BadRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class ContextExceeded(BadRequest):
    """The prompt does not fit. `extra` carries n_prompt_tokens and n_ctx as llama-server
    does. `at_least`: counting ended there."""

    type = "exceed_context_size_error"
    code = "context_length_exceeded"

    def __init__(self, n_prompt_tokens: int, n_ctx: int, at_least: bool = False) -> None:
        least = "at least " if at_least else ""
        super().__init__(
            f"the prompt exceeds the available context size: it has {least}{n_prompt_tokens}"
            f" tokens, the context of the model holds {n_ctx}",
            param="messages",
            extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx},
        )


class Unsupported(BadRequest):
    """A parameter that the backend which serves this model cannot honour."""

    code = "unsupported_parameter"


class BackendLacks(Unsupported):
    """The backend answered 501: it was built or started without what the request needs."""

    status = 501
    type = "not_supported_error"


class CharacterCut(BadRequest):
    """Token ids that hold a part of a character. An old server cannot write them as text."""


class BodyTooLarge(BadRequest):
    status = 413
    code = "request_too_large"


class Unauthorized(GatewayError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    status = 403
    type = "permission_error"


class QuotaExceeded(Forbidden):
    """A key holds as much as it may. The message tells the limit and how to raise it."""

    code = "quota_exceeded"


class NotFound(GatewayError):
    status = 404
    type = "not_found_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"


class QueueFull(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class TooManyWrongKeys(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "too_many_wrong_keys"


class QueueTimeout(GatewayError):
    status = 503
    type = "unavailable_error"
    code = "queue_timeout"


class NoBackend(GatewayError):
    status = 503
    type = "unavailable_error"
    code = "no_backend"


class StoreUnavailable(GatewayError):
    status = 503
    type = "unavailable_error"
    code = "store_unavailable"


class UpstreamFault(GatewayError):
    status = 502
    code = "upstream_fault"


class AnswerCut(UpstreamFault):
    """The server may have died while it answered."""


class BackendFailed(UpstreamFault):
    """The backend reported a failure of its own."""


class BackendBusy(UpstreamFault):
    code = "upstream_busy"


class PoolTimeout(BackendBusy):
    """No connection to the backend came free in time. It says nothing about its health."""

    status = 503
    type = "unavailable_error"
    code = "pool_timeout"


class BackendDown(UpstreamFault):
    code = "upstream_down"


class ConnectionLost(BackendDown):
    """The server took the request, so it may have died of it."""


class UpstreamTimeout(GatewayError):
    status = 504
    type = "timeout_error"
    code = "upstream_timeout"


class Cancelled(GatewayError):
    status = 499
    type = "cancelled"
    code = "client_closed_request"
