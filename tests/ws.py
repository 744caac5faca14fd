"""A WebSocket client on a socket, for tests."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, TextMessage

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Client:
    """The client's end, after it has sent its handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(30.0)
        self._protocol = Connection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            data = sock.recv(65536)
            if not data:
                return
            self.head += data
        self.head, _, rest = self.head.partition(b"\r\n\r\n")
        if rest:
            self._protocol.receive_data(rest)

    def send(self, event: Event) -> None:
        self.sock.sendall(self._protocol.send(event))

    def say(self, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.send(TextMessage(data=text))

    def next(self) -> Event:
        """The next event; pings are answered and not told."""
        while True:
            while not self._events:
                self._events += self._protocol.events()
                if not self._events:
                    data = self.sock.recv(65536)
                    self._protocol.receive_data(data or None)
            event = self._events.pop(0)
            if not isinstance(event, Ping):
                return event
            self.send(event.response())

    def text(self) -> str:
        """The next message, whole."""
        whole = ""
        while True:
            event = self.next()
            assert isinstance(event, TextMessage), event
            whole += event.data
            if event.message_finished:
                return whole

    def answer(self) -> Iterator[Any]:
        """The events up to the end of a response, or an error."""
        while True:
            event = json.loads(self.text())
            yield event
            kind = event["type"]
            if kind in ("error", "response.completed", "response.incomplete", "response.failed"):
                return

    def closed(self) -> int:
        """The code with which the server closes."""
        event = self.next()
        assert isinstance(event, CloseConnection), event
        return int(event.code)

    def close(self) -> None:
        self.sock.close()


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client of the Responses API at this address."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 30.0) as sock:
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        sock.sendall(f"GET /v1/responses HTTP/1.1\r\nHost: {place.netloc}\r\n{head}\r\n".encode())
        yield Client(sock)
