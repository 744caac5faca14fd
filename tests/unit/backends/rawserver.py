"""A server that sends scripted bytes, one script per connection, to produce any fault."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proxy.backends.llamacpp import LlamaCpp

Step = bytes | Callable[[socket.socket], None]


def head(length: int | None, status: str = "200 OK", extra: str = "") -> bytes:
    """A response head with a length, or for a chunked body."""
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{how}\r\n{extra}\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def event(**fields: Any) -> bytes:
    data = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data}\n\n".encode()


def streamed(*parts: bytes) -> bytes:
    """A whole answer, each part in a chunk of its own."""
    return head(None) + b"".join(map(chunk, parts)) + LAST_CHUNK


def hang_up(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    """Close with a reset, as a killed process does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


class RawServer:
    """`scripts[i]` is played on the i-th connection, one step per request."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.closed: list[threading.Event] = [threading.Event() for _ in scripts]
        self._open: list[socket.socket] = []
        self._over = False
        self._lock = threading.Lock()  # of the two above
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            sock.close()

    def _run(self) -> None:
        for script, closed in zip(self._scripts, self.closed, strict=True):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._over:
                    sock.close()
                    return
                self._open.append(sock)
            threading.Thread(target=self._play, args=(sock, script, closed), daemon=True).start()

    def _play(self, sock: socket.socket, script: Sequence[Step], closed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            for step in script:
                self.requests.append(self._read(sock))
                if callable(step):
                    step(sock)
                else:
                    sock.sendall(step)
            while sock.recv(4096):
                pass
        closed.set()

    def _read(self, sock: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = sock.recv(4096)
            if not part:
                raise OSError("gone")
            data += part
        top, _, first = data.partition(b"\r\n\r\n")
        length = int(top.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        rest = bytearray(first)
        while len(rest) < length:
            part = sock.recv(1 << 16)
            if not part:
                raise OSError("gone")
            rest += part
        return top + b"\r\n\r\n" + rest


@contextlib.contextmanager
def llama(*scripts: Sequence[Step]) -> Iterator[tuple[LlamaCpp, RawServer]]:
    """A driver for a server.cpp that plays these scripts."""
    with RawServer(*scripts) as server:
        driver = LlamaCpp(server.url, timeout=60, tick=1)
        try:
            yield driver, server
        finally:
            driver.close()
