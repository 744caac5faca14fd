"""One store for two kinds: responses and conversations.

All are JSON with a list of items, they share the bounds of their owner, and their ids tell them
apart. Each kind is seen through a view of its own, so an id of another kind is not found.
"""

from __future__ import annotations

from collections.abc import Callable

from .responses import ResponseStore, Stored

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
