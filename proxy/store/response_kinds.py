"""One store for two kinds: responses, and chat completions that were made with `store`.

Both are JSON with a list of input, they share the bounds of their owner, and their ids tell them
apart. Each kind is seen through a view of its own, so an id of the other kind is not found.
"""

from __future__ import annotations

from .responses import ResponseStore, Stored

CHAT = "chatcmpl-"  # begins the id of a chat completion


class StoredKind:
    """A `ResponseStore` of the chat completions, or of all others. `clear` deletes both kinds."""

    def __init__(self, store: ResponseStore, *, chats: bool) -> None:
        self._store = store
        self._chats = chats
        self.put = store.put
        self.open = store.open
        self.close_open = store.close_open
        self.beat = store.beat
        self.clear = store.clear

    @property
    def shared(self) -> bool:
        return self._store.shared

    def change_open(self, owner: str, key: str, response: bytes, *, over: bool) -> bool:
        return self._has(key) and self._store.change_open(owner, key, response, over=over)

    def get(self, owner: str, key: str) -> Stored | None:
        return self._store.get(owner, key) if self._has(key) else None

    def ids(self, owner: str) -> list[str]:
        return [key for key in self._store.ids(owner) if self._has(key)]

    def delete(self, owner: str, key: str) -> bool:
        return self._has(key) and self._store.delete(owner, key)

    def _has(self, key: str) -> bool:
        return key.startswith(CHAT) == self._chats
