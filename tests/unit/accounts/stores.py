"""A store of keys in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from proxy.accounts.key_cache import Change
from proxy.accounts.records import Entry, Identity, StoredKey, identity_of
from proxy.errors import BadRequest, NotFound, StoreUnavailable


class MemoryKeys:
    """`asked` counts the questions for a key; while `away`, every call fails."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.log: list[Change] = []
        self.asked = 0
        self.away = False
        self.on_find: Any = lambda: None

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def secret(self) -> bytes:
        self._check()
        return b"secret"

    def find(self, digest: str) -> Identity | None:
        self._check()
        self.asked += 1
        found = [key for key in self.keys.values() if digest in (key.digest, key.former_digest)]
        self.on_find()
        return identity_of(found[0], digest) if found else None

    def find_id(self, key_id: str) -> Identity | None:
        self._check()
        self.asked += 1
        key = self.keys.get(key_id)
        return identity_of(key, key.digest) if key else None

    def newest(self) -> int:
        self._check()
        return len(self.log)

    def changes(self, since: int, most: int) -> Sequence[Change]:
        self._check()
        return self.log[since : since + most]

    def note(self, subject: str, kind: str = "key", *, finishes: bool = False) -> None:
        self.log.append(Change(len(self.log) + 1, kind, subject, finishes))

    def read(self, name: str) -> StoredKey:
        for key in self.keys.values():
            if name in (key.id, key.digest):
                return key
        raise NotFound("there is no such API key")

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]:
        return []

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[StoredKey]]:
        keys = list(self.keys.values())
        return len(keys), keys[offset : offset + limit]

    def check_alias(self, alias: str) -> None:
        if any(key.alias == alias for key in self.keys.values()):
            raise BadRequest(f"the key_alias {alias!r} is in use", param="key_alias")

    def add(self, key: StoredKey, actor: str) -> None:
        self.keys[key.id] = key
        self.note(key.id)

    def change(
        self,
        name: str,
        edit: Callable[[StoredKey], StoredKey],
        actor: str,
        action: str,
        *,
        finish_running: bool = False,
    ) -> StoredKey:
        key = edit(self.read(name))
        self.keys[key.id] = key
        self.note(key.id)
        return key

    def delete(
        self,
        names: Collection[str],
        aliases: Collection[str],
        actor: str,
        *,
        finish_running: bool = False,
    ) -> list[str]:
        gone = [self.read(name) for name in names]
        for key in gone:
            del self.keys[key.id]
            self.note(key.id, finishes=finish_running)
        return [key.digest for key in gone]
