"""Cancellation: one `Cancel` per request, set as soon as nobody needs the answer.

Code that blocks for the request registers a callback that wakes it. A callback runs at most once,
on the canceller's thread, and must not block. There is no lock: popping a list gives each item to
one thread only, and the flag is set before the callbacks are popped and checked after one was
added.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from msgspec import Struct

from ..errors import Cancelled

Reason = Callable[[], Cancelled]
"""Makes the error with which a request ends."""
OnExchange = Callable[[Any, bytes, Iterable[bytes]], Callable[[bytes], None] | None]


def client_left() -> Cancelled:
    return Cancelled("the client closed the request")


class Cancel(Struct, eq=False):
    """Set once, never unset. The first reason counts.

    What concerns a running request travels with it: `headers`, the lines of a trace for its
    backends; `on_exchange`, called before each exchange with what will be sent, and returns what
    gets each part of the answer, if anything does; and `hurried`: its reader wants the answer now,
    so reasoning ends."""

    cancelled: bool = False
    hurried: bool = False
    headers: str = ""
    on_exchange: OnExchange | None = None
    _reason: Reason = client_left
    _callbacks: list[Callable[[], None]] = []

    def cancel(self, reason: Reason = client_left) -> None:
        if not self.cancelled:
            self._reason = reason
            self.cancelled = True
        self._call()

    def error(self) -> Cancelled:
        """The error that says why it is cancelled."""
        return self._reason()

    def check(self) -> None:
        """Raises Cancelled once it is cancelled."""
        if self.cancelled:
            raise self.error()

    def pass_on(self, other: Cancel) -> Callable[[], None]:
        """Cancel another one with this one, for the same reason. Returns the function that ends
        this."""

        def cancel() -> None:
            other.cancel(self._reason)

        other.on_exchange = other.on_exchange or self.on_exchange
        self.add(cancel)
        return partial(self.remove, cancel)

    def add(self, callback: Callable[[], None]) -> None:
        """Call back on cancel; immediately if it is cancelled already."""
        self._callbacks.append(callback)
        if self.cancelled:
            self._call()

    def remove(self, callback: Callable[[], None]) -> None:
        """Remove a callback. Ignored if it ran or was never added."""
        try:  # noqa: SIM105  (suppress() takes longer than the rest of this method)
            self._callbacks.remove(callback)
        except ValueError:
            pass

    def wait(self, seconds: float) -> None:
        """Wait until it is cancelled, at most so many seconds."""
        cancelled = threading.Event()
        self.add(cancelled.set)
        cancelled.wait(seconds)
        self.remove(cancelled.set)

    def _call(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                return  # another thread took the last one
            callback()
