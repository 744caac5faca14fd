"""Requests that a server gets as the client sent them, and their answers."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.task import Call
from ..errors import UpstreamTimeout
from ..runtime.cancel import Cancel
from .http import ConnectionPool, Exchange

# Headers about the content of an answer. All others end here: those of the connection, cookies
# (the gateway has its own), and rules for browsers, which are the gateway's too.
KEPT = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "retry-after",
    }
)


def forward(
    pool: ConnectionPool, call: Call, path: str, cancel: Cancel, *, tick: float, timeout: float
) -> ForwardedAnswer:
    """Send a call to `path`, and wait for the head of its answer. Redirects are not followed.
    Raises UpstreamTimeout after `timeout` seconds of silence, and like `ConnectionPool.send`."""
    exchange = pool.forward(call, path, cancel, tick)
    try:
        silence = 0.0
        while not exchange.headers_came():
            silence += tick
            if silence >= timeout:
                raise UpstreamTimeout("the model's server did not answer in time")
        return ForwardedAnswer(exchange, tick, timeout)
    except BaseException:
        exchange.close()
        raise


class ForwardedAnswer:
    def __init__(self, exchange: Exchange, tick: float, timeout: float) -> None:
        self._exchange = exchange
        self._tick = tick
        self._timeout = timeout
        self.status = exchange.status
        self.headers = {name: text for name, text in exchange.headers.items() if name in KEPT}

    def __iter__(self) -> Iterator[bytes]:
        silence = 0.0
        while True:
            part = self._exchange.read()
            if part is None:
                silence += self._tick
                if silence >= self._timeout:
                    raise UpstreamTimeout("the model's server stopped in mid-answer")
            elif not part:
                return
            else:
                silence = 0.0
                yield part

    def close(self) -> None:
        self._exchange.close()
