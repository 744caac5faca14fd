"""Who is connected to an engine: frames in and out, of all of them at once.

The engine looks here between two tokens, so nothing here may wait for one of them: what a peer does
not take is kept for it, up to a bound. Nobody left means that nobody wants the engine any more.
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
BOUND = 64 << 20  # bytes kept for a peer that does not read


class Alone(Exception):
    """Nobody is connected."""


class Event(Enum):
    JOINED = "joined"
    LEFT = "left"


class Peer:
    """One connection. What is sent to one that has left is dropped."""

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
        """What it says. Raises EOFError when it says no more, or nonsense."""
        try:
            data = self.sock.recv(CHUNK)
            orders = [protocol.order(one) for one in self.frames.feed(data)]
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
        """Make it end as if it had hung up, so that it is told by `receive`."""
        self._out.clear()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Peers:
    """`listener` is where more may join, a Unix socket; None: only the `first`."""

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

    def receive(self, seconds: float | None) -> list[tuple[Peer, Order | Event]]:
        """What has come, waited for at most so long (None: without end). Raises Alone."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if not self._all:
                raise Alone
            left = None if end is None else max(0.0, end - time.monotonic())
            out: list[tuple[Peer, Order | Event]] = []
            for key, events in self._selector.select(left):
                peer = key.data
                if peer is None:
                    out += [(one, Event.JOINED) for one in self._accept()]
                elif events & selectors.EVENT_WRITE:
                    peer.flush()
                else:
                    out += self._heard(peer)
            if out or (end is not None and time.monotonic() >= end):
                return out

    def tell(self, frame: Report) -> None:
        """Say it to all."""
        for peer in self._all:
            peer.send(frame)

    def farewell(self, frame: Report) -> None:
        """The last word, for all and also for who is just joining: nobody can after this."""
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

    def _heard(self, peer: Peer) -> list[tuple[Peer, Order | Event]]:
        try:
            return [(peer, order) for order in peer.orders()]
        except EOFError:
            self._all.remove(peer)
            peer.close()
            return [(peer, Event.LEFT)]
