"""GET requests for a backend's small documents with `requests`, bounded in bytes and time.

`requests` bounds the silence between two reads, but neither the total time nor the size, and
http.client beneath it accepts any number of interim answers and trailers. So both are bounded at
the socket, which sees every byte.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from ..errors import BackendDown
from .http import CheckPeer

MAX_HEAD = 64 << 10  # bytes of an answer's head, with the interim answers before it
MAX_ANSWER = 4 << 20  # bytes of an answer
PIECE = 1 << 16


class ProbeSession:
    """Sends GET requests to one backend, with `headers` in each and a connection for each, which
    `check_peer` sees before anything else is sent (see `http.ConnectionPool`). For one thread."""

    def __init__(self, headers: Mapping[str, str], check_peer: CheckPeer | None = None) -> None:
        self._budget = _Budget()
        self._check_peer = check_peer
        self._session = requests.Session()
        self._session.trust_env = False  # the environment's proxy is for the internet
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(max_retries=0))
        own = {"Connection": "close", "Accept-Encoding": "identity"}
        self._session.headers.update({**own, **headers})

    def __enter__(self) -> ProbeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, seconds: float, body: object = None) -> tuple[int, bytes]:
        """The status and body, (0, b"") if there is no valid answer in time; with a `body`, of a
        POST. The answer is not decompressed, whatever its Content-Encoding. Raises BackendDown."""
        self._budget.start(seconds)
        _asking.budget, _asking.check_peer = self._budget, self._check_peer
        method = "GET" if body is None else "POST"
        try:
            with self._session.request(
                method, url, json=body, timeout=seconds, allow_redirects=False, stream=True
            ) as answer:
                self._budget.left = MAX_ANSWER
                data = bytearray()
                while piece := answer.raw.read(PIECE, decode_content=False):
                    data += piece
                return answer.status_code, bytes(data)
        except requests.ConnectionError as error:
            if self._budget.spent:
                return 0, b""
            raise BackendDown("the backend is not responding", detail=str(error)) from None
        except (requests.RequestException, HTTPError, OSError):
            return 0, b""
        finally:
            # A server may close without having said so, just when the next request is sent.
            self._session.close()


class _Budget:
    """The remaining bytes of one answer, and its deadline `end`."""

    def __init__(self) -> None:
        self.left = 0
        self.end = 0.0
        self.spent = False

    def start(self, seconds: float) -> None:
        self.left, self.end, self.spent = MAX_HEAD, time.monotonic() + seconds, False

    def seconds(self) -> float:
        """The remaining seconds. Raises TimeoutError if bytes or time are used up."""
        left = self.end - time.monotonic()
        if left <= 0 or self.left <= 0:
            self.spent = True
            raise TimeoutError("too slow, or too large")
        return left


class _Socket:
    """A socket for http.client whose reads are counted."""

    def __init__(self, sock: socket.socket, budget: _Budget) -> None:
        self._sock = sock
        self._budget = budget

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        counted: Any = self
        # As socket.makefile does: http.client closes the socket before an answer that ends with the
        # connection has been read.
        counted._sock._io_refs += 1
        return io.BufferedReader(socket.SocketIO(counted, "r"))

    def recv_into(self, buffer: memoryview) -> int:
        self._sock.settimeout(self._budget.seconds())
        count = self._sock.recv_into(buffer[: self._budget.left])
        self._budget.left -= count
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


_asking = threading.local()  # `budget` and `check_peer` of the answer that this thread waits for


def _counting(pool: Any) -> Any:
    """A class of connection pools whose connections are checked, and count their bytes."""

    class Counting(pool.ConnectionCls):  # type: ignore[misc]
        sock: Any

        def connect(self) -> None:
            super().connect()
            if _asking.check_peer is not None:
                _asking.check_peer(self.sock)
            self.sock = _Socket(self.sock, _asking.budget)

    return type("CountingPool", (pool,), {"ConnectionCls": Counting})


# Made once: classes are reference cycles, and a backend that is down is probed every few seconds.
_POOLS = {"http": _counting(HTTPConnectionPool), "https": _counting(HTTPSConnectionPool)}


class _Adapter(HTTPAdapter):
    """Creates connections with counting sockets."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS
