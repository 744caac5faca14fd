"""A connection between browser and gateway that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading


class Wire:
    """Forwards bytes both ways; records the bytes that the browser `sent`."""

    def __init__(self, port: int) -> None:
        """`port` is the gateway's."""
        self._to = port
        self._whole = True
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent = bytearray()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Closes every connection, and refuses new ones until it is mended."""
        with self._lock:
            self._whole = False
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            _end(sock)

    def mend(self) -> None:
        with self._lock:
            self._whole = True

    def close(self) -> None:
        _end(self._listening)
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                browser, _ = self._listening.accept()
                with self._lock:
                    if not self._whole:
                        _end(browser)
                        continue
                    gateway = socket.create_connection(("127.0.0.1", self._to))
                    self._sockets |= {browser, gateway}
                for pair in ((browser, gateway), (gateway, browser)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source.getpeername()[1] != self._to:
                    self.sent += data
                to.sendall(data)
        for sock in (source, to):
            _end(sock)
            self._sockets.discard(sock)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
