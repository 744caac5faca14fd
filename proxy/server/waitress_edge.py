"""Limits that waitress itself lacks.

A request without a valid key may send at most `WITHOUT_KEY` bytes. An incomplete chunk line, and
incomplete trailers, which waitress copies with every read, have at most `MAX_INCOMPLETE` bytes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import RequestHeaderFieldsTooLarge

from .http1 import ConnectionLimits
from .reader import MAX_INCOMPLETE

# Bytes of a body without a valid key. The sign-in form has 16 kB.
WITHOUT_KEY = 64 << 10

Shows = Callable[[Mapping[str, str]], bool]


def channel(shows_key: Shows) -> type[HTTPChannel]:
    """The class for connections. `shows_key` is called with a request's headers and address, by
    their names in a WSGI environment, and returns whether it may send a large body."""

    class Parser(HTTPRequestParser):  # type: ignore[misc]
        adj: Any
        completed: bool
        began = 0.0  # when its head was complete

        def __init__(self, adj: Any, peer: str) -> None:
            super().__init__(adj)
            self.peer = peer

        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            self.began = time.monotonic()
            headers = {f"HTTP_{name}": value for name, value in self.headers.items()}
            headers["REMOTE_ADDR"] = self.peer
            large = self.chunked or self.content_length >= WITHOUT_KEY
            if large and not shows_key(headers):
                self.adj = copy.copy(self.adj)
                self.adj.max_request_body_size = WITHOUT_KEY

        def received(self, data: bytes) -> int:
            taken: int = super().received(data)
            coming = self.body_rcv
            if self.chunked and not self.completed and coming is not None:
                held = len(coming.control_line) + len(coming.trailer)
                if held > MAX_INCOMPLETE:
                    self.error = RequestHeaderFieldsTooLarge(
                        "too much data between chunks of the body"
                    )
                    self.completed = True
            return taken

    class Channel(HTTPChannel):  # type: ignore[misc]
        def __init__(self, server: Any, sock: Any, addr: Any, *args: Any, **kwargs: Any) -> None:
            peer = addr[0] if isinstance(addr, tuple) else ""
            self.parser_class = partial(Parser, peer=peer)
            super().__init__(server, sock, addr, *args, **kwargs)

    return Channel


def look(server: Any, limits: ConnectionLimits, send_timeout: float) -> None:
    """Close connections whose client takes too long. Runs in waitress' own thread."""
    now, clock = time.time(), time.monotonic()
    for channel in list(server.active_channels.values()):
        request = channel.request
        if channel.total_outbufs_len and now - channel.last_activity > send_timeout:
            channel.handle_close()
        elif request is not None and request.headers_finished and not request.completed:
            allowed = limits.body + request.body_bytes_received / limits.body_rate
            if clock - request.began > allowed:
                channel.handle_close()
        elif request is not None and now - channel.last_activity > limits.head:
            channel.handle_close()
