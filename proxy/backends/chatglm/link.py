"""Our end of the socket to one engine: frames go out and come in, each to the call it belongs to.

Two threads do the waiting (greenlets, where gevent has patched), so that no request ever blocks on
the socket: an engine that evaluates a long prompt reads nothing meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading

import msgspec

from . import protocol
from .protocol import Answer, Broken, Bye, Cancel, Order, Reading, Ready

CHUNK = 1 << 16


class Call:
    """One order and the answers to it. `None` says that the engine is gone."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self.id = number
        self._answers: queue.Queue[Answer | None] = queue.Queue()

    def receive(self, timeout: float) -> list[Answer | None]:
        """What has come, waited for at most `timeout` seconds; [] is silence."""
        out: list[Answer | None] = []
        try:
            out.append(self._answers.get(timeout=timeout))
            while True:
                out.append(self._answers.get_nowait())
        except queue.Empty:
            return out

    def put(self, answer: Answer | None) -> None:
        self._answers.put(answer)

    def close(self, cancel: bool) -> None:
        """No answer is wanted any more."""
        self._link.forget(self, cancel)


class Link:
    """One engine for as long as it lives. One thread must call `read` until it says that the engine
    is gone; `sock` is a blocking stream socket. `unloaded`: the engine went because nobody needed
    it, and has begun nothing that is still open."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = protocol.Frames()
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._gone = False
        self.unloaded = False
        self._writer = threading.Thread(target=self._write, name="chatglm-write", daemon=True)
        self._writer.start()

    def call(self) -> Call:
        """A number to put into an order."""
        call = Call(self, next(self._numbers))
        with self._lock:
            gone = self._gone
            if not gone:
                self._calls[call.id] = call
        if gone:
            call.put(None)
        return call

    def send(self, order: Order) -> None:
        self._out.put(protocol.pack(order))

    def forget(self, call: Call, cancel: bool) -> None:
        with self._lock:
            known = self._calls.pop(call.id, None)
        if known is not None and cancel and not self._gone:
            self.send(Cancel(call.id))

    def read(self) -> list[Reading | Ready | Broken | Bye] | None:
        """Wait for what the engine says, of itself that is: answers go to their calls. None: it is
        gone, or not in its right mind."""
        try:
            data = self._sock.recv(CHUNK)
            reports = [protocol.report(one) for one in self._frames.feed(data)]
        except (OSError, ValueError, msgspec.DecodeError):
            return None
        if not data:
            return None
        own: list[Reading | Ready | Broken | Bye] = []
        for one in reports:
            if isinstance(one, (Reading, Ready, Broken, Bye)):
                self.unloaded = isinstance(one, Bye)
                own.append(one)
            elif (call := self._calls.get(one.id)) is not None:
                call.put(one)
        return own

    def close(self) -> None:
        """Hang up. Every open call is told."""
        with self._lock:
            self._gone = True
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.put(None)
        self._out.put(None)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes who reads or writes
        self._writer.join()

    def _write(self) -> None:
        try:
            while (data := self._out.get()) is not None:
                self._sock.sendall(data)
        except OSError:
            pass
        finally:  # the reader sees the end too
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
