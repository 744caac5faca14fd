"""Drivers of HTTP servers: what all of them share, and the one for a server of any other API."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

from ..core.task import CallMaker, Forwarded
from ..errors import BackendDown, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from .driver import Capabilities, Driver, Learned, ignore
from .http import CheckPeer, ConnectionPool, forward

DIALECT = "http"
CHECK_TIMEOUT = 5.0


class HTTPOptions(TypedDict, total=False):
    """Arguments of every `HTTPDriver`. `check_peer`: see `ConnectionPool`."""

    timeout: float
    connect_timeout: float
    tick: float
    api_key: str
    check_peer: CheckPeer | None


class HTTPDriver(Driver):
    """A driver for the server at `url`. `new_pool` makes connection pools of the class
    `connect`."""

    _pool: ConnectionPool  # for requests of clients
    _root: ConnectionPool  # for health checks; its paths begin at the server's root
    _model = ""  # what the server calls its model, "" if it takes the name that clients send

    def __init__(
        self,
        url: str,
        connect: Callable[..., ConnectionPool] = ConnectionPool,
        **options: Unpack[HTTPOptions],
    ) -> None:
        self.url = url
        self.options = options
        self.timeout = timeout = options.get("timeout", 600.0)
        self._tick = min(options.get("tick", 15.0) or timeout, timeout)
        self._secret = key = options.get("api_key", "")
        self.new_pool: Callable[..., Any] = partial(
            connect,
            url=url,
            timeout=timeout,
            connect_timeout=options.get("connect_timeout", 5.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            check_peer=options.get("check_peer"),
        )

    def status_of(self, path: str, seconds: float) -> int:
        """The status of a GET, 0 if the server does not respond."""
        try:
            return self._root.ask("GET", path, timeout=seconds, short=True)[0]
        except (UpstreamFault, UpstreamTimeout):
            return 0

    def forward(self, make: CallMaker, cancel: Cancel, key: str = "") -> Forwarded:
        call = make(self._model)
        return forward(self._pool, call, call.path, cancel, tick=self._tick, timeout=self.timeout)

    def close(self) -> None:
        self._pool.close()
        self._root.close()


class HTTPServer(HTTPDriver):
    """A server of any other HTTP API: whisper-server, stable-diffusion.cpp, rerankers … Its
    requests are forwarded, so nothing is known of it but whether it answers."""

    no_text = "this model's server has no text API: its requests are only forwarded"

    def __init__(self, url: str, *, model: str = "", **options: Unpack[HTTPOptions]) -> None:
        super().__init__(url, **options)
        self._model = model
        self._pool = self._root = self.new_pool()

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if not self.status_of("/", min(deadline, CHECK_TIMEOUT)):
            raise BackendDown("the backend is not responding")
        return Capabilities(dialect=DIALECT, queues=True, tokenize=False)

    def alive(self) -> bool:
        """Always: many of these servers answer nothing while they work. The process is watched by
        its host, and a server that hangs fails its requests."""
        return True
