"""The client side of an engine's socket: sends frames, and assigns received ones to their calls.

Two threads wait on the socket (greenlets, if gevent has patched), so that no request ever blocks on
it: an engine that evaluates a long prompt reads nothing meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading

import msgspec

from . import protocol
from .protocol import (
    Answer,
    Broken,
    ByeMessage,
    CancelMessage,
    Decode,
    Encode,
    Generate,
    ReadingMessage,
    Ready,
)

CHUNK = 1 << 16


class PendingCall:
    """An order and its answers. `None` means that the engine has ended."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self.id = number
        self._answers: queue.Queue[Answer | None] = queue.Queue()

    def receive(self, timeout: float) -> list[Answer | None]:
        """The answers so far, after waiting at most `timeout` seconds; [] if there are none."""
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
        """Stop receiving answers."""
        self._link.forget(self, cancel)


class Link:
    """The connection to one engine, as long as it lives. One thread must call `read` until it
    returns None; `sock` is a blocking stream socket. `unloaded`: the engine ended because it was
    idle, before it began any open call."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = protocol.Frames()
        self._numbers = itertools.count(1)
        self._calls: dict[int, PendingCall] = {}
        self._lock = threading.Lock()
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._gone = False
        self.unloaded = False
        self._writer = threading.Thread(target=self._write, name="chatglm-write", daemon=True)
        self._writer.start()

    def call(self, order: Generate | Encode | Decode) -> PendingCall:
        """Send an order, with a number of its own."""
        call = PendingCall(self, next(self._numbers))
        with self._lock:
            gone = self._gone
            if not gone:
                self._calls[call.id] = call
        if gone:
            call.put(None)
        self._out.put(protocol.pack(msgspec.structs.replace(order, id=call.id)))
        return call

    def forget(self, call: PendingCall, cancel: bool) -> None:
        with self._lock:
            known = self._calls.pop(call.id, None)
        if known is not None and cancel and not self._gone:
            self._out.put(protocol.pack(CancelMessage(call.id)))

    def read(self) -> list[ReadingMessage | Ready | Broken | ByeMessage] | None:
        """Wait for the engine's reports about itself; answers go to their calls. None: the engine
        has ended, or sent invalid data."""
        try:
            data = self._sock.recv(CHUNK)
            reports = [protocol.read_report(frame) for frame in self._frames.feed(data)]
        except (OSError, ValueError, msgspec.DecodeError):
            return None
        if not data:
            return None
        own: list[ReadingMessage | Ready | Broken | ByeMessage] = []
        for report in reports:
            if isinstance(report, (ReadingMessage, Ready, Broken, ByeMessage)):
                self.unloaded = isinstance(report, ByeMessage)
                own.append(report)
            elif (call := self._calls.get(report.id)) is not None:
                call.put(report)
        return own

    def close(self) -> None:
        """Disconnect, and notify every open call."""
        with self._lock:
            self._gone = True
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.put(None)
        self._out.put(None)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes blocked readers and writers
        self._writer.join()

    def _write(self) -> None:
        try:
            while (data := self._out.get()) is not None:
                self._sock.sendall(data)
        except OSError:
            pass
        finally:  # makes the reader end too
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
