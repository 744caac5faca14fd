"""Unfinished answers that will be stored, so that deleting an owner's data can cancel them."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

from ..errors import DataDeleted
from ..runtime.cancel import Cancel
from ..runtime.locks import native_rlock


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

    def add(self, one: Owned) -> None:
        with self._lock:
            self._known.add(one)

    def cancel(self, owner: str) -> int:
        """End all answers of this owner, whose data was deleted, and return how many there were."""
        with self._lock:
            owned = [one for one in self._known if one.owner == owner]
        for one in owned:
            one.cancel.cancel(DataDeleted)
        return len(owned)
