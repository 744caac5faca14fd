"""What is being made of what an owner keeps: it ends when the owner's data are deleted."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

from ..cancel import Cancel
from ..locks import brief_nested


class Owned(Protocol):
    @property
    def owner(self) -> str: ...

    @property
    def cancel(self) -> Cancel: ...


class Ongoing:
    """Answers under way that will be kept. One that is over is forgotten by itself."""

    def __init__(self) -> None:
        self._known: WeakSet[Owned] = WeakSet()
        self._lock = brief_nested()

    def add(self, one: Owned) -> None:
        with self._lock:
            self._known.add(one)

    def cancel(self, owner: str) -> int:
        """All of this owner's; how many they were."""
        with self._lock:
            mine = [one for one in self._known if one.owner == owner]
        for one in mine:
            one.cancel.cancel()
        return len(mine)
