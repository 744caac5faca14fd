"""One cancel for one request, from whoever notices first that nobody waits for the answer.

The web layer cancels when the client's socket closes; whoever blocks on the request's behalf (a
place in the queue, an upstream socket) registers a callback that wakes it. A callback runs at most
once, on the canceller's thread, and must not block.

There is no lock: a list gives each of its items to one taker alone, and the flag is set before
callbacks are taken and looked at after one was added.
"""

from __future__ import annotations

from collections.abc import Callable


class Cancel:
    """Set once, never unset."""

    __slots__ = ("_callbacks", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        self.cancelled = True
        self._call()

    def add(self, callback: Callable[[], None]) -> None:
        """Call back on cancel; at once if it was cancelled already."""
        self._callbacks.append(callback)
        if self.cancelled:
            self._call()

    def remove(self, callback: Callable[[], None]) -> None:
        """Forget a callback; one that ran or was never added is ignored."""
        try:  # noqa: SIM105  (suppress() takes longer than all of this)
            self._callbacks.remove(callback)
        except ValueError:
            pass

    def _call(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:
                return  # another thread was quicker
            callback()
