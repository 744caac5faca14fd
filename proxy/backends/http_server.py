"""The driver for a server of any other HTTP API: whisper-server, stable-diffusion.cpp, rerankers …

Its requests are forwarded, so nothing is known of it but whether it answers.
"""

from __future__ import annotations

from typing import NoReturn

from ..core.task import CallMaker, Forwarded, Task
from ..errors import BackendDown, PoolTimeout, Unsupported, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from .driver import Capabilities, Driver, Learned, Run, ignore
from .http import CheckPeer, ConnectionPool
from .relay import forward

DIALECT = "http"
CHECK_TIMEOUT = 5.0


class HTTPServer(Driver):
    """`model` is what the server calls its model, "" if it takes the name that clients send."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        tick: float = 15.0,
        check_peer: CheckPeer | None = None,
    ) -> None:
        self._model = model
        self._timeout = timeout
        self._tick = min(tick or timeout, timeout)
        self._pool = ConnectionPool(
            url, timeout=timeout, connect_timeout=connect_timeout, check_peer=check_peer
        )

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        if not self.status_of("/", min(deadline, CHECK_TIMEOUT)):
            raise BackendDown("the backend is not responding")
        return Capabilities(dialect=DIALECT, queues=True, tokenize=False)

    def alive(self) -> bool:
        """Always: many of these servers answer nothing while they work. The process is watched by
        its host, and a server that hangs fails its requests."""
        return True

    def status_of(self, path: str, seconds: float) -> int:
        """The status of a GET, 0 if the server does not respond."""
        try:
            return self._pool.ask("GET", path, timeout=seconds, short=True)[0]
        except (PoolTimeout, UpstreamFault, UpstreamTimeout):
            return 0

    def forward(self, make: CallMaker, cancel: Cancel, key: str = "") -> Forwarded:
        call = make(self._model)
        return forward(self._pool, call, call.path, cancel, tick=self._tick, timeout=self._timeout)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> Run:
        _refuse()

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        _refuse()

    def detokenize(self, tokens: list[int]) -> str:
        _refuse()

    def close(self) -> None:
        self._pool.close()


def _refuse() -> NoReturn:
    raise Unsupported("this model's server has no text API: its requests are only forwarded")
