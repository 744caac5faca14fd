"""Stored responses: a bounded number of bytes and of responses for each key.

Values are opaque bytes here. The oldest of a key make room for its newest, and a key sees its own
alone. Without a database they are in the memory of one process (`MemoryResponses`); in a database
(`DatabaseResponses` in database_responses.py) several processes share them.

A response in progress has a writer. If the writer no longer runs, the response is `lost`:
it will never be finished.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..runtime.locks import native_lock

MAX_BYTES = 64 << 20  # of a key


class Stored(NamedTuple):
    """A response, and all items it was made of. `lost`: it was being made by a process that is
    gone."""

    response: bytes
    items: bytes
    lost: bool = False


class ResponseStore(Protocol):
    """Every call but `close_open` raises StoreUnavailable where a database cannot be used at the
    moment. Times are seconds since 1970."""

    @property
    def shared(self) -> bool:
        """Whether other processes may use it too."""

    def put(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        """Keep it, or replace what is kept under this id. One too large for all is not kept, nor
        one whose making had `begun` when the owner's data were cleared."""

    def open(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        """As `put`, of one that this process goes on making until `close_open`."""

    def change(
        self,
        owner: str,
        key: str,
        edit: Callable[[Stored], Stored],
        created: float | None = None,
    ) -> Stored | None:
        """Replace one that is not being made by what `edit` makes of it, in one step: of several
        changes none is lost. Returns the new one; None, and nothing done, if there is none. Errors
        of `edit` leave it as it is. `created` is its new time, by which the oldest make room."""

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        """Replace one that is being made, whoever makes it; `over`: it is finished by that. False,
        and nothing done, where it is finished already, or was deleted."""

    def close_open(self, owner: str, key: str) -> None:
        """This process makes it no longer. Called after `open` alone."""

    def beat(self) -> list[tuple[str, str]]:
        """Give a sign of life for all that this process makes. Those (owner, id) that nobody wants
        any more: cancelled or deleted through another process."""

    def get(self, owner: str, key: str) -> Stored | None: ...

    def ids(self, owner: str) -> list[str]:
        """Of all responses of this owner, oldest first."""

    def clear(self, owner: str) -> int:
        """Delete all of an owner's, also what is being made and would be kept later. How many there
        were."""

    def delete(self, owner: str, key: str) -> bool:
        """Whether there was one."""


class MemoryResponses:
    """At most `most` responses and `most_bytes` a key."""

    shared = False

    def __init__(
        self, most: int, most_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = native_lock()
        self._owners: dict[str, _Owned] = {}
        self._count = 0

    def put(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        self._put(owner, key, created, value, begun, making=False)

    def open(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        self._put(owner, key, created, value, begun, making=True)

    def change(
        self,
        owner: str,
        key: str,
        edit: Callable[[Stored], Stored],
        created: float | None = None,
    ) -> Stored | None:
        with self._lock:
            mine = self._owner(owner)
            row = mine.rows.get(key)
            if row is None or row.making:
                return None
            changed = edit(row.value)
            mine.remove(key)
            new = row.created if created is None else created
            mine.add(key, row._replace(value=changed, created=new))
            self._make_room(mine)
            return changed

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        with self._lock:
            mine = self._owner(owner)
            row = mine.rows.get(key)
            if row is None or not row.making:
                return False
            mine.remove(key)
            mine.add(key, row._replace(value=Stored(response, row.value.items), making=not over))
            return True

    def close_open(self, owner: str, key: str) -> None:
        with self._lock:
            mine = self._owner(owner)
            row = mine.rows.get(key)
            if row is not None and row.making:
                mine.rows[key] = row._replace(value=row.value._replace(lost=True))

    def beat(self) -> list[tuple[str, str]]:
        return []

    def get(self, owner: str, key: str) -> Stored | None:
        with self._lock:
            row = self._owner(owner).rows.get(key)
        return None if row is None else row.value

    def ids(self, owner: str) -> list[str]:
        with self._lock:
            return [key for *_, key in self._owner(owner).order]

    def clear(self, owner: str) -> int:
        with self._lock:
            count = len(self._owner(owner).rows)
            self._owners[owner] = _Owned(self._clock())
        return count

    def delete(self, owner: str, key: str) -> bool:
        with self._lock:
            return self._owner(owner).remove(key)

    def _owner(self, owner: str) -> _Owned:
        return self._owners.get(owner) or _Owned()

    def _put(
        self,
        owner: str,
        key: str,
        created: float,
        value: Stored,
        begun: float | None,
        *,
        making: bool,
    ) -> None:
        if _size(value) > self._most_bytes:
            return
        with self._lock:
            mine = self._owners.setdefault(owner, _Owned())
            # A time in the future is of a clock that was set back since.
            if begun is not None and begun <= mine.cleared <= self._clock():
                return
            mine.remove(key)
            self._count += 1
            mine.add(key, _Row(created, self._count, value, making))
            self._make_room(mine)

    def _make_room(self, mine: _Owned) -> None:
        """Delete an owner's oldest beyond the bounds."""
        while len(mine.order) > self._most or mine.size > self._most_bytes:
            mine.remove(mine.order[0][2])


class _Row(NamedTuple):
    """`number` counts what is put: of two of one time, the first is the older one."""

    created: float
    number: int
    value: Stored
    making: bool


class _Owned:
    """What one owner has; `cleared` is when that was deleted last."""

    def __init__(self, cleared: float = 0.0) -> None:
        self.cleared = cleared
        self.size = 0  # bytes
        self.rows: dict[str, _Row] = {}
        self.order: list[tuple[float, int, str]] = []  # oldest first

    def add(self, key: str, row: _Row) -> None:
        self.rows[key] = row
        self.size += _size(row.value)
        insort(self.order, (row.created, row.number, key))

    def remove(self, key: str) -> bool:
        """Whether there was one."""
        row = self.rows.pop(key, None)
        if row is None:
            return False
        self.size -= _size(row.value)
        del self.order[bisect_left(self.order, (row.created, row.number, key))]
        return True


def _size(value: Stored) -> int:
    return len(value.response) + len(value.items)


# One store for two kinds: responses and conversations.
#
# All are JSON with a list of items, they share the bounds of their owner, and their ids tell them
# apart. Each kind is seen through a view of its own, so an id of another kind is not found.
CONVERSATION = "conv_"  # begins the id of a conversation
CHAT = "chatcmpl-"  # and of a chat completion, which earlier versions stored
OTHERS = (CHAT, CONVERSATION)  # all others are responses


class StoredKind:
    """A `ResponseStore` of one kind. `prefix` begins its ids; "": of responses. `clear` deletes all
    kinds."""

    def __init__(self, store: ResponseStore, prefix: str = "") -> None:
        self._store = store  # opened when it is used first
        self._prefix = prefix

    @property
    def shared(self) -> bool:
        return self._store.shared

    def put(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        self._store.put(owner, key, created, value, begun)

    def open(
        self, owner: str, key: str, created: float, value: Stored, begun: float | None = None
    ) -> None:
        self._store.open(owner, key, created, value, begun)

    def close_open(self, owner: str, key: str) -> None:
        self._store.close_open(owner, key)

    def beat(self) -> list[tuple[str, str]]:
        return self._store.beat()

    def clear(self, owner: str) -> int:
        return self._store.clear(owner)

    def change(
        self,
        owner: str,
        key: str,
        edit: Callable[[Stored], Stored],
        created: float | None = None,
    ) -> Stored | None:
        return self._store.change(owner, key, edit, created) if self._has(key) else None

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        return self._has(key) and self._store.change_open(owner, key, response, over=over)

    def get(self, owner: str, key: str) -> Stored | None:
        return self._store.get(owner, key) if self._has(key) else None

    def ids(self, owner: str) -> list[str]:
        return [key for key in self._store.ids(owner) if self._has(key)]

    def delete(self, owner: str, key: str) -> bool:
        return self._has(key) and self._store.delete(owner, key)

    def _has(self, key: str) -> bool:
        return key.startswith(self._prefix) if self._prefix else not key.startswith(OTHERS)
