"""Makes and changes the API keys in the store. Changes count at once in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from secrets import token_bytes, token_hex
from typing import Any, Protocol

from msgspec.structs import replace

from . import key_text
from .book import Book, KeyStore
from .records import StoredKey


class ChangingKeyStore(KeyStore, Protocol):
    """See `store.api_keys`."""

    def read(self, name: str) -> StoredKey: ...

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int
    ) -> tuple[int, list[StoredKey]]: ...

    def add(self, key: StoredKey, actor: str) -> None: ...

    def change(
        self, name: str, fields: Mapping[str, Any], actor: str, action: str
    ) -> StoredKey: ...

    def delete(self, names: Collection[str], aliases: Collection[str], actor: str) -> list[str]: ...


class KeyService:
    """`actor` is the name of the key that asks for a change. A key is named by its secret, its
    digest or its id. All methods raise StoreUnavailable."""

    def __init__(
        self, store: ChangingKeyStore, book: Book, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._book = book
        self._clock = clock

    def make(self, key: StoredKey, actor: str) -> tuple[str, StoredKey]:
        """Make a key with the fields of `key`, except for its id, secret and times. Returns the
        secret, which is not stored, and the key. Raises BadRequest if the alias is in use."""
        secret = key_text.make(token_bytes(key_text.BYTES))
        now = self._clock()
        made = replace(
            key,
            id=f"key_{token_hex(12)}",
            digest=self._digest(secret),
            shown=key_text.shown(secret),
            created=now,
            created_by=actor,
            changed=now,
        )
        self._store.add(made, actor)
        self._book.follow()
        return secret, made

    def read(self, name: str) -> StoredKey:
        """Raises NotFound."""
        return self._store.read(self._named(name))

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int
    ) -> tuple[int, list[StoredKey]]:
        """How many keys have the wanted values of their fields, and a page of them, the newest
        first."""
        return self._store.listed(wanted, offset, limit)

    def change(
        self, name: str, fields: Mapping[str, Any], actor: str, action: str = "update"
    ) -> StoredKey:
        """Set fields of a key. Raises NotFound, and BadRequest if the alias is in use."""
        key = self._store.change(self._named(name), fields, actor, action)
        self._book.follow()
        return key

    def delete(self, names: Collection[str], aliases: Collection[str], actor: str) -> list[str]:
        """Delete keys; returns their digests. Raises NotFound, and then deletes none."""
        gone = self._store.delete([self._named(name) for name in names], aliases, actor)
        self._book.follow()
        return gone

    def _named(self, name: str) -> str:
        return self._digest(name) if name.startswith(key_text.PREFIX) else name

    def _digest(self, secret: str) -> str:
        return key_text.digest(secret, self._store.secret())


def expiry(lasts: float, now: float) -> float | None:
    """When something that lasts so many seconds expires; None: never."""
    return None if lasts == math.inf else now + lasts
