"""Stored responses, and conversations of the Responses API: a bounded number for each key, whose
oldest make room. Without a database they are in memory. `lost`: the writer no longer runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ..runtime.locks import native_lock

MAX_BYTES = 64 << 20  # of a key
CONVERSATION = "conv_"  # begins the id of a conversation
OTHERS = ("chatcmpl-", CONVERSATION)  # all others are responses; the first are of earlier versions


class Stored(NamedTuple):
    """A response, and all items it was made of. `lost`: the process that made it is gone."""

    response: bytes
    items: bytes
    lost: bool = False


class _Row(NamedTuple):
    created: float
    value: Stored
    making: bool


class MemoryResponses:
    """At most `most` responses and `most_bytes` a key. Times are seconds since 1970."""

    shared = False  # with other processes

    def __init__(
        self, most: int, most_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = native_lock()
        self._rows: dict[str, dict[str, _Row]] = {}  # by owner and id
        self._cleared: dict[str, float] = {}  # by owner: when its data were deleted last

    def put(
        self,
        owner: str,
        key: str,
        created: float,
        value: Stored,
        begun: float | None = None,
        *,
        making: bool = False,
    ) -> None:
        """Store a response, unless it is too large, or had `begun` when the owner's data were
        cleared. `making`: this process continues to generate it until `close_open`."""
        if len(value.response) + len(value.items) > self._most_bytes:
            return
        with self._lock:
            # A time in the future is of a clock that was set back since.
            if begun is not None and begun <= self._cleared.get(owner, 0.0) <= self._clock():
                return
            rows = self._rows.setdefault(owner, {})
            rows.pop(key, None)  # of two of one time, the first that was put is the older one
            rows[key] = _Row(created, value, making)
            self._make_room(rows)

    def change(
        self, owner: str, key: str, edit: Callable[[Stored], Stored], created: float | None = None
    ) -> Stored | None:
        """Replace a complete response, in one step; None if there is none."""
        with self._lock:
            rows = self._rows.get(owner, {})
            row = rows.get(key)
            if row is None or row.making:
                return None
            changed = edit(row.value)
            new = row.created if created is None else created
            rows[key] = row._replace(value=changed, created=new)
            self._make_room(rows)
            return changed

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        """Replace one that is being made, whoever makes it; `over`: it is finished by that. False,
        and nothing done, where it is finished already, or was deleted."""
        with self._lock:
            rows = self._rows.get(owner, {})
            row = rows.get(key)
            if row is None or not row.making:
                return False
            rows[key] = row._replace(value=Stored(response, row.value.items), making=not over)
            return True

    def close_open(self, owner: str, key: str) -> None:
        """This process makes it no longer. Called after `put` with `making` alone."""
        with self._lock:
            rows = self._rows.get(owner, {})
            row = rows.get(key)
            if row is not None and row.making:
                rows[key] = row._replace(value=row.value._replace(lost=True))

    def beat(self) -> list[tuple[str, str]]:
        """Give a sign of life; return those (owner, id) that nobody wants any more."""
        return []

    def get(self, owner: str, key: str) -> Stored | None:
        with self._lock:
            row = self._rows.get(owner, {}).get(key)
        return None if row is None else row.value

    def ids(self, owner: str) -> list[str]:
        """Of all that this owner has, oldest first."""
        with self._lock:
            return _by_age(self._rows.get(owner, {}))

    def clear(self, owner: str) -> int:
        """Delete all of an owner's, also what is being made; return how many there were."""
        with self._lock:
            self._cleared[owner] = self._clock()
            return len(self._rows.pop(owner, {}))

    def delete(self, owner: str, key: str) -> bool:
        with self._lock:
            return self._rows.get(owner, {}).pop(key, None) is not None

    def _make_room(self, rows: dict[str, _Row]) -> None:
        for key in _by_age(rows):
            size = sum(len(row.value.response) + len(row.value.items) for row in rows.values())
            if len(rows) <= self._most and size <= self._most_bytes:
                return
            del rows[key]


def _by_age(rows: dict[str, _Row]) -> list[str]:
    return sorted(rows, key=lambda key: rows[key].created)
