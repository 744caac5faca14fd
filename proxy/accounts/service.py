"""Makes and changes the API keys, users and teams in the store. Changes count at once in this
process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from secrets import token_bytes, token_hex
from typing import Generic, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from .key_cache import (
    SECRET_BYTES,
    SECRET_PREFIX,
    KeyCache,
    KeyStore,
    key_digest,
    make_secret,
    shown_secret,
)
from .records import Account, Entry, Member, StoredKey, Team, User

A = TypeVar("A", bound=Account)
B = TypeVar("B", StoredKey, User, Team)
T = TypeVar("T")
Edit = Callable[[T], T]


class ChangingKeyStore(KeyStore, Protocol):
    """See `store.api_keys`."""

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]: ...

    def read(self, name: str) -> StoredKey: ...

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[StoredKey]]: ...

    def check_alias(self, alias: str) -> None:
        """Raises BadRequest if a key has this alias."""

    def add(self, key: StoredKey, actor: str) -> None: ...

    def change(
        self,
        name: str,
        edit: Edit[StoredKey],
        actor: str,
        action: str,
        *,
        finish_running: bool = False,
    ) -> StoredKey: ...

    def delete(
        self,
        names: Collection[str],
        aliases: Collection[str],
        actor: str,
        *,
        finish_running: bool = False,
    ) -> list[str]: ...


class KeyService:
    """`actor` is the name of the key that asks for a change. A key is named by its secret, its
    digest or its id. The running requests of a key that a change refuses end within a second,
    unless it says `finish_running`. All methods raise StoreUnavailable."""

    def __init__(
        self, store: ChangingKeyStore, cache: KeyCache, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock

    def make(self, key: StoredKey, actor: str) -> tuple[str, StoredKey]:
        """Make a key with the fields of `key`, except for its secret and times, and its id if that
        is empty. Returns the secret, which is not stored, and the key. Raises BadRequest if the
        alias is in use."""
        secret = make_secret(token_bytes(SECRET_BYTES))
        now = self._clock()
        made = replace(
            key,
            id=key.id or f"key_{token_hex(12)}",
            digest=self._digest(secret),
            shown=shown_secret(secret),
            created=now,
            created_by=actor,
            changed=now,
        )
        self._store.add(made, actor)
        self._cache.follow()
        return secret, made

    def check_alias(self, alias: str) -> None:
        """Raises BadRequest if a key has this alias."""
        self._store.check_alias(alias)

    def read(self, name: str) -> StoredKey:
        """Raises NotFound."""
        return self._store.read(self._named(name))

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[StoredKey]]:
        """How many keys have the wanted values of their fields and a name with the text of
        `search`, and a page of them, the newest first."""
        return self._store.listed(wanted, offset, limit, search=search)

    def change(
        self,
        name: str,
        edit: Edit[StoredKey],
        actor: str,
        action: str = "update",
        *,
        finish_running: bool = False,
    ) -> StoredKey:
        """Edit a key. Raises NotFound, and BadRequest if the alias is in use."""
        key = self._store.change(
            self._named(name), edit, actor, action, finish_running=finish_running
        )
        self._cache.follow()
        return key

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]:
        """The last changes of keys, users and teams, the newest first: those before a number, or
        of one subject unless it is ""."""
        return self._store.entries(subject, before, limit)

    def regenerate(
        self, name: str, edit: Edit[StoredKey], grace: float, actor: str
    ) -> tuple[str, StoredKey]:
        """Edit a key and give it a new secret; the present one is valid for `grace` seconds more.
        Returns the new secret, which is not stored, and the key. Raises as `change`."""
        secret = make_secret(token_bytes(SECRET_BYTES))
        now = self._clock()

        def renew(key: StoredKey) -> StoredKey:
            return replace(
                edit(key),
                digest=self._digest(secret),
                shown=shown_secret(secret),
                former_digest=key.digest if grace else None,
                former_until=now + grace if grace else 0.0,
            )

        return secret, self.change(name, renew, actor, "regenerate")

    def delete(
        self,
        names: Collection[str],
        aliases: Collection[str],
        actor: str,
        *,
        finish_running: bool = False,
    ) -> list[str]:
        """Delete keys; returns their digests. Raises NotFound, and then deletes none."""
        named = [self._named(name) for name in names]
        gone = self._store.delete(named, aliases, actor, finish_running=finish_running)
        self._cache.follow()
        return gone

    def _named(self, name: str) -> str:
        return self._digest(name) if name.startswith(SECRET_PREFIX) else name

    def _digest(self, secret: str) -> str:
        return key_digest(secret, self._store.secret())


class Groups(Protocol[A]):
    """The users, or the teams; see `store.groups`."""

    def read(self, name: str) -> A: ...

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[A]]: ...

    def add(self, new: A, actor: str) -> None: ...

    def change(
        self, name: str, edit: Edit[A], actor: str, action: str, *, finish_running: bool = False
    ) -> A: ...

    def delete(
        self, names: Collection[str], actor: str, *, finish_running: bool = False
    ) -> int: ...

    def members(self, name: str) -> Sequence[Member]: ...

    def join(self, members: Collection[Member], actor: str) -> None: ...

    def leave(self, team_id: str, user_id: str, actor: str) -> None: ...


class GroupService(Generic[A]):
    """Makes and changes users, or teams. `finish_running` is as for keys."""

    def __init__(
        self, store: Groups[A], cache: KeyCache, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self._cache = cache
        self._clock = clock

    def make(self, new: A, actor: str) -> A:
        """Make one with the fields of `new`, except for its times, and its id if that is empty.
        Raises BadRequest if something unique is in use."""
        now = self._clock()
        made = replace(new, id=new.id or token_hex(12), created=now, changed=now)
        self.store.add(made, actor)
        self._cache.follow()
        return made

    def change(
        self,
        name: str,
        edit: Edit[A],
        actor: str,
        action: str = "update",
        *,
        finish_running: bool = False,
    ) -> A:
        """Edit one. Raises NotFound and BadRequest."""
        changed = self.store.change(name, edit, actor, action, finish_running=finish_running)
        self._cache.follow()
        return changed

    def delete(self, names: Collection[str], actor: str, *, finish_running: bool = False) -> int:
        """Delete these and their keys; returns how many there were. Raises NotFound, and then
        deletes none."""
        count = self.store.delete(names, actor, finish_running=finish_running)
        self._cache.follow()
        return count


class Accounts(NamedTuple):
    """The services of a gateway that keeps keys in its store."""

    keys: KeyService
    users: GroupService[User]
    teams: GroupService[Team]


def blocking(blocked: bool) -> Callable[[B], B]:
    """The edit that blocks, or unblocks."""
    return lambda known: replace(known, blocked=blocked)
