"""A WebSocket on the socket of a WSGI request.

One thread reads, so that the end of the connection is noticed while nobody reads messages. At the
end, the socket is shut down for writing, and still read for a moment: a client that is reset may
lose the reason.

A frame of six bytes costs as much as one of a kilobyte. So a read is short, other greenlets run
after each, and frames are counted.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

READ_SIZE = 4096  # bytes: nearly seven hundred frames at most
MOST_WAITING = 8  # messages, while an earlier one is answered
CLOSING = 1.0  # seconds for the client's own closing frame
MOST_CONTROL = 100  # control frames and empty ones in a second
MOST_FRAGMENTS = 1000  # of a message, and one more for each kilobyte of it
NORMAL, LEAVING = CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY
NO_TEXT, TOO_LONG = CloseReason.UNSUPPORTED_DATA, CloseReason.MESSAGE_TOO_BIG
TOO_MUCH = CloseReason.POLICY_VIOLATION


def accepted(key: str) -> str | None:
    """The `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`, None if that is no key."""
    try:
        is_key = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return None
    return generate_accept_token(key.encode()).decode() if is_key else None


class WebSocket:
    """`receive` and `send` are for one thread; `on_close` is called in another one."""

    def __init__(
        self,
        sock: Any,
        accept: str,
        headers: list[tuple[str, str]],
        *,
        longest: int,
        send_timeout: float,
        on_close: Callable[[], None],
    ) -> None:
        """Accept the connection. `longest` is the size of a message in bytes. Raises OSError."""
        self._sock = sock
        self._longest = longest
        self._on_close = on_close
        self._protocol = Connection(ConnectionType.SERVER)
        self._lock = threading.Lock()  # of the protocol, and of writes
        self._messages: queue.Queue[str | None] = queue.Queue()  # None: no more
        self._parts: list[str] = []
        self._size = 0  # of the parts, in bytes
        self._fragments = 0
        self._second = 0.0  # when the current second began, for counting control frames
        self._control = 0
        self.closed = False
        sock.settimeout(send_timeout)
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Accept: {accept}", *map(": ".join, headers), "\r\n"]
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        # A read must not end the timeout of a write, so it has an object of its own.
        self._reads = sock.dup()
        self._reads.settimeout(send_timeout)
        self._reader = threading.Thread(target=self._read, name="websocket", daemon=True)
        self._reader.start()

    def receive(self, timeout: float) -> str | None:
        """The next message, None if the connection is closed. Raises TimeoutError."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("no message arrived") from None

    def send(self, text: str) -> None:
        """Raises OSError if the client has disconnected or reads nothing, as `ping` does."""
        self._send(TextMessage(data=text))

    def ping(self) -> None:
        self._send(Ping())

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Tell the client, unless it has closed, and wait a moment for its answer. Never raises."""
        self._refuse(code, reason)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._reader.join(CLOSING)
        self.closed = True
        if self._reader.is_alive():
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)
            self._reader.join(CLOSING)
        with contextlib.suppress(OSError):
            self._reads.close()

    def _send(self, event: Any) -> None:
        with self._lock:
            try:
                data = self._protocol.send(event)
            except LocalProtocolError:
                raise ConnectionResetError("the WebSocket is closed") from None
            self._sock.sendall(data)

    # the reader

    def _read(self) -> None:
        try:
            while not self.closed:
                try:
                    data = self._reads.recv(READ_SIZE)
                except TimeoutError:
                    continue
                if not data or not self._take(data):
                    break
                time.sleep(0)
        except OSError:
            pass
        finally:
            self.closed = True
            self._messages.put(None)
            self._on_close()

    def _take(self, data: bytes) -> bool:
        """Handle some bytes. False if the connection is over."""
        with self._lock:
            try:
                self._protocol.receive_data(data)
                events = list(self._protocol.events())
            except RemoteProtocolError:
                return False
        ping = None
        for event in events:
            is_control = isinstance(event, Ping | Pong)
            is_empty = isinstance(event, TextMessage) and not event.data
            if (is_control or is_empty) and not self._may_control():
                why = f"at most {MOST_CONTROL} pings, pongs or empty frames a second"
                return self._refuse(TOO_MUCH, why)
            match event:
                case TextMessage():
                    if not self._text(event):
                        return False
                case BytesMessage():
                    return self._refuse(NO_TEXT, "send text")
                case Ping():
                    ping = event  # an answer to the last one is enough (RFC 6455, 5.5.3)
                case CloseConnection():
                    with contextlib.suppress(OSError):
                        self._send(event.response())
                    return False
        if ping is not None:
            self._send(ping.response())
        return True

    def _may_control(self) -> bool:
        """Count a frame that carries nothing. False if there are too many in this second."""
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._control = now, 0
        self._control += 1
        return self._control <= MOST_CONTROL

    def _text(self, event: TextMessage) -> bool:
        self._parts.append(event.data)
        self._size += len(event.data.encode())
        self._fragments += event.frame_finished
        if self._size > self._longest:
            return self._refuse(TOO_LONG, f"at most {self._longest} bytes are allowed")
        if self._fragments > MOST_FRAGMENTS + self._size // 1024:
            return self._refuse(TOO_MUCH, "the fragments of the message are too small")
        if event.message_finished:
            if self._messages.qsize() >= MOST_WAITING:
                return self._refuse(TOO_MUCH, f"at most {MOST_WAITING} messages may wait")
            self._messages.put("".join(self._parts))
            self._parts, self._size, self._fragments = [], 0, 0
        return True

    def _refuse(self, code: int, reason: str) -> bool:
        with contextlib.suppress(OSError):
            self._send(CloseConnection(code=code, reason=reason))
        return False
