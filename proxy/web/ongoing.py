"""What keys have under way: unfinished answers that will be stored, so that deleting an owner's
data can cancel them, calls to tools, and the places (threads, streams) that they take from others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

from ..errors import DataDeleted
from ..runtime.cancel import Cancel, Reason
from ..runtime.locks import native_lock, native_rlock


class RunningCalls:
    """The calls to tools of /mcp that run, which clients can cancel: by key, session and id."""

    def __init__(self) -> None:
        self._calls: dict[Cancel, tuple[str, str, str | int]] = {}

    @contextmanager
    def running(self, owner: str, session: str, key: str | int) -> Iterator[Cancel]:
        """Yield a Cancel that `cancel` sets while the call runs."""
        cancel = Cancel()
        self._calls[cancel] = owner, session, key
        try:
            yield cancel
        finally:
            del self._calls[cancel]

    def cancel(self, owner: str, session: str, key: str | int | None = None) -> None:
        """Cancel this call of a named session, or all."""
        for cancel, (caller, of, call) in self._calls.copy().items():
            if session and (caller, of) == (owner, session) and key in (None, call):
                cancel.cancel()

    def end_all(self, reason: Reason) -> None:
        for cancel in self._calls.copy():
            cancel.cancel(reason)


class Owned(Protocol):
    @property
    def owner(self) -> str: ...

    @property
    def cancel(self) -> Cancel: ...


class Ongoing:
    """The unfinished answers; holds only weak references."""

    def __init__(self) -> None:
        self._known: WeakSet[Owned] = WeakSet()
        self._lock = native_rlock()

    def add(self, answer: Owned) -> None:
        with self._lock:
            self._known.add(answer)

    def cancel(self, owner: str) -> int:
        """End all answers of this owner, whose data was deleted, and return how many there were."""
        with self._lock:
            answers = [answer for answer in self._known if answer.owner == owner]
        for answer in answers:
            answer.cancel.cancel(DataDeleted)
        return len(answers)


class FairCap:
    """`most` places for all keys together. A key may hold as many as are free: a single key gets
    half of them, a second half of the rest, and so on. With one key or none (`alone`), the limit is
    the total."""

    def __init__(self, most: int, *, alone: bool = False) -> None:
        self._most = most
        self._alone = alone
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._lock = native_lock()

    def take(self, owner: str) -> bool:
        """Take a place; return False if there is none for this owner. Return it with `give`."""
        with self._lock:
            free = self._most - self._taken
            if free <= 0 or not (self._alone or self._held[owner] < free):
                return False
            self._held[owner] += 1
            self._taken += 1
            return True

    @property
    def taken(self) -> int:
        return self._taken

    def give(self, owner: str) -> None:
        with self._lock:
            self._taken -= 1
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
