"""The server side of an engine's socket: frames from and to all its connections.

The engine calls this between two tokens, so nothing here may wait for a peer: data that a peer does
not accept is buffered, up to a bound. Without connections, the engine is no longer needed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Sequence
from enum import Enum

import msgspec

from . import protocol
from .protocol import Order, Report

CHUNK = 1 << 16
BOUND = 64 << 20  # bytes buffered for a peer that does not read


class Alone(Exception):
    """The last connection has closed."""


class PeerEvent(Enum):
    JOINED = "joined"
    LEFT = "left"


class Peer:
    """A connection. Frames for a disconnected peer are dropped."""

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.frames = protocol.Frames()
        self._selector = selector
        self._out = bytearray()
        self.gone = False
        selector.register(sock, selectors.EVENT_READ, self)

    def send(self, frame: Report) -> None:
        if not self.gone:
            self._out += protocol.pack(frame)
            self.flush()

    def flush(self) -> None:
        waited = selectors.EVENT_READ
        try:
            while self._out:
                del self._out[: self.sock.send(self._out)]
        except BlockingIOError:
            waited |= selectors.EVENT_WRITE
            if len(self._out) > BOUND:
                self._break()
        except OSError:
            self._break()
        if not self.gone and self._selector.get_key(self.sock).events != waited:
            self._selector.modify(self.sock, waited, self)

    def orders(self) -> list[Order]:
        """The orders received. Raises EOFError if it has disconnected or sent invalid data."""
        try:
            data = self.sock.recv(CHUNK)
            orders = [protocol.order(frame) for frame in self.frames.feed(data)]
        except BlockingIOError:
            return []
        except (OSError, ValueError, msgspec.DecodeError):
            raise EOFError from None
        if not data:
            raise EOFError
        return orders

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._selector.unregister(self.sock)
            self.sock.close()

    def _break(self) -> None:
        """Treat it as disconnected, which `receive` will report."""
        self._out.clear()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Peers:
    """All connections. `listener` is a Unix socket where more may join; None: only `first`."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket | None = None,
        first: Sequence[socket.socket] = (),
    ) -> None:
        self._selector = selector
        self._listener = listener
        self._all = [Peer(sock, selector) for sock in first]
        if listener is not None:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
            self._accept()

    def receive(self, seconds: float | None) -> list[tuple[Peer, Order | PeerEvent]]:
        """Orders and events, after waiting at most so many seconds (None: forever). Raises
        Alone."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if not self._all:
                raise Alone
            left = None if end is None else max(0.0, end - time.monotonic())
            out: list[tuple[Peer, Order | PeerEvent]] = []
            for key, events in self._selector.select(left):
                peer = key.data
                if peer is None:
                    out += [(peer, PeerEvent.JOINED) for peer in self._accept()]
                elif events & selectors.EVENT_WRITE:
                    peer.flush()
                else:
                    out += self._heard(peer)
            if out or (end is not None and time.monotonic() >= end):
                return out

    def tell(self, frame: Report) -> None:
        """Send a frame to all."""
        for peer in self._all:
            peer.send(frame)

    def farewell(self, frame: Report) -> None:
        """Send the last frame to all, including new connections, and accept no more."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._listener.getsockname())
            self._accept()
        self.tell(frame)

    def close(self) -> None:
        for peer in self._all:
            peer.close()
        if self._listener is not None:
            self._listener.close()
        self._selector.close()

    def _accept(self) -> list[Peer]:
        joined: list[Peer] = []
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                joined.append(Peer(self._listener.accept()[0], self._selector))
        self._all += joined
        return joined

    def _heard(self, peer: Peer) -> list[tuple[Peer, Order | PeerEvent]]:
        try:
            return [(peer, order) for order in peer.orders()]
        except EOFError:
            self._all.remove(peer)
            peer.close()
            return [(peer, PeerEvent.LEFT)]
