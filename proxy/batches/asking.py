"""Answers a line of a batch as if its client had sent the request: with its key, rights, parser,
ledger row and log line, but in idle slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.cancel import Cancel
from ..web.auth import BATCH, SIGNED_IN
from ..web.body import JSON
from ..web.disconnect import CANCEL
from ..web.observability import Record, new_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

WSGI = Callable[[dict[str, Any], "StartResponse"], Iterable[bytes]]
AGENT = "slotproxy-batch"


class Asked(NamedTuple):
    """A request to answer: the JSON `body` for the route `path`, with the key named `owner`, as
    from the address `peer`."""

    path: str
    body: bytes
    owner: str
    peer: str
    cancel: Cancel


class Answered(NamedTuple):
    """`retry_after`: seconds, None if the answer does not say. `outcome` is how the gateway's own
    part ended, such as the code of an error; "" if another server's answer was passed on.
    `has_effects`: tools have run, which another try would repeat."""

    status: int
    request_id: str
    body: bytes
    retry_after: float | None = None
    outcome: str = ""
    has_effects: bool = False


Ask = Callable[[Asked], Answered]


def asker(app: WSGI, prefix: str) -> Ask:
    """Returns the function that asks `app`, whose routes have this prefix."""

    def ask(asked: Asked) -> Answered:
        data, request_id = asked.body, new_id()
        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": prefix + asked.path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": asked.peer,
            "CONTENT_TYPE": JSON,
            "CONTENT_LENGTH": str(len(data)),
            "HTTP_X_REQUEST_ID": request_id,
            "HTTP_USER_AGENT": AGENT,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(data),
            "wsgi.errors": None,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            SIGNED_IN: asked.owner,
            BATCH: True,
            CANCEL: asked.cancel,
        }
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            started[:] = [int(status[:3]), {name.lower(): value for name, value in headers}]

        parts = app(environ, start)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, headers = started
        after = headers.get("retry-after", "")
        info = Record.of(environ).info
        return Answered(
            status,
            request_id,
            body,
            float(after) if after.isdecimal() else None,
            info.outcome,
            info.has_effects,
        )

    return ask
