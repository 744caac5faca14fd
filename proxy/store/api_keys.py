"""API keys in the database, found by the digest of their secret."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from secrets import token_bytes, token_hex
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, delete, insert, or_, select, update

from ..accounts.key_cache import SECRET_BYTES, SECRET_PREFIX, key_digest, make_secret, shown_secret
from ..accounts.records import NO_BOUND, Bound, Identity, StoredKey, identity_of
from ..accounts.rights import Rights
from ..errors import BadRequest, NotFound
from .account_changes import AccountChanges, Recorder, ensure_user, of_row, row_of
from .database import containing
from .tables import ACCOUNT_USER, API_KEY, TEAM

_c = API_KEY.c


class ApiKeys(AccountChanges):
    """Implements `accounts.key_cache.KeyStore`. `actor` is the name of the key that asks for a
    change. A key is named by its secret, its digest or its id. The running requests of a key that a
    change refuses end within a second, unless it says `finish_running`."""

    def find(self, digest: str) -> Identity | None:
        return self._identity(or_(_c.digest == digest, _c.former_digest == digest), digest)

    def find_id(self, key_id: str) -> Identity | None:
        return self._identity(_c.id == key_id, "")

    def _identity(self, condition: ColumnElement[bool], digest: str) -> Identity | None:
        user, team = ACCOUNT_USER.c, TEAM.c
        bounds = [
            user.blocked.label("user_blocked"),
            user.rights.label("user_rights"),
            team.blocked.label("team_blocked"),
            team.rights.label("team_rights"),
        ]
        joined = API_KEY.outerjoin(ACCOUNT_USER, user.id == _c.user_id)
        joined = joined.outerjoin(TEAM, team.id == _c.team_id)
        row = self._db.first(select(API_KEY, *bounds).select_from(joined).where(condition))
        if row is None:
            return None
        return identity_of(
            of_row(StoredKey, row),
            digest or row.digest,
            _bound(row.user_blocked, row.user_rights),
            _bound(row.team_blocked, row.team_rights),
        )

    def read(self, name: str) -> StoredKey:
        """Raises NotFound."""
        name = self._named(name)
        with self._db.begin() as db:
            (key,) = _read(db, [name])
        return key

    def listed(
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[StoredKey]]:
        """How many keys have the wanted values of their fields and a name with the text of
        `search`, and a page of them, the newest first."""
        condition = [_c[name] == value for name, value in wanted.items()]
        condition += containing(search, _c.alias, _c.id, _c.shown, _c.user_id, _c.team_id)
        query = select(API_KEY).order_by(_c.created.desc(), _c.id)
        return self._page(StoredKey, query, condition, offset, limit)

    def check_alias(self, alias: str) -> None:
        """Raises BadRequest if a key has this alias."""
        with self._db.begin() as db:
            _check_alias(db, alias, "")

    def make(self, key: StoredKey, actor: str) -> tuple[str, StoredKey]:
        """Add a key with the fields of `key`, except for its secret and times, and its id if that
        is empty. Returns the secret, which is not stored, and the key. Raises as `add`."""
        secret = make_secret(token_bytes(SECRET_BYTES))
        now = time.time()
        made = replace(
            key,
            id=key.id or f"key_{token_hex(12)}",
            digest=self._named(secret),
            shown=shown_secret(secret),
            created=now,
            created_by=actor,
            changed=now,
        )
        self.add(made, actor)
        return secret, made

    def regenerate(
        self, name: str, edit: Callable[[StoredKey], StoredKey], grace: float, actor: str
    ) -> tuple[str, StoredKey]:
        """Edit a key and give it a new secret; the present one is valid for `grace` seconds more.
        Returns the new secret, which is not stored, and the key. Raises as `change`."""
        secret = make_secret(token_bytes(SECRET_BYTES))
        digest, until = self._named(secret), time.time() + grace

        def renew(key: StoredKey) -> StoredKey:
            return replace(
                edit(key),
                digest=digest,
                shown=shown_secret(secret),
                former_digest=key.digest if grace else None,
                former_until=until if grace else 0.0,
            )

        return secret, self.change(name, renew, actor, "regenerate")

    def add(self, key: StoredKey, actor: str) -> None:
        """An unknown user is made. Raises BadRequest for a used id or alias and an unknown team."""
        with self.changing(actor) as changes:
            if changes.db.execute(select(_c.id).where(_c.id == key.id)).first() is not None:
                raise BadRequest(f"the key_id {key.id[:100]!r} is in use", param="key_id")
            _check_alias(changes.db, key.alias, key.id)
            _check_owners(changes, key)
            changes.db.execute(insert(API_KEY).values(**row_of(key)))
            changes.whole("create", "key", key)

    def change(
        self,
        name: str,
        edit: Callable[[StoredKey], StoredKey],
        actor: str,
        action: str = "update",
        *,
        finish_running: bool = False,
    ) -> StoredKey:
        """Raises NotFound, and BadRequest like `add`."""
        name = self._named(name)
        with self.changing(actor, finish_running) as changes:
            (key,) = _read(changes.db, [name])
            new = replace(edit(key), changed=time.time())
            _check_alias(changes.db, new.alias, new.id)
            _check_owners(changes, new)
            changes.db.execute(update(API_KEY).where(_c.id == key.id).values(**row_of(new)))
            changes.differing(action, "key", key, new)
        return new

    def delete(
        self,
        names: Collection[str],
        aliases: Collection[str],
        actor: str,
        *,
        finish_running: bool = False,
    ) -> list[str]:
        """Delete all these keys, or none and raise NotFound; returns their digests."""
        names = [self._named(name) for name in names]
        with self.changing(actor, finish_running) as changes:
            keys = _read(changes.db, names, aliases)
            delete_keys(changes, [key.id for key in keys])
        return [key.digest for key in keys]

    def _named(self, name: str) -> str:
        """The digest or id of a key that may be named by its secret."""
        return key_digest(name, self.secret()) if name.startswith(SECRET_PREFIX) else name


def _read(db: Connection, names: Collection[str], aliases: Collection[str] = ()) -> list[StoredKey]:
    wanted = or_(_c.digest.in_(names), _c.id.in_(names), _c.alias.in_(aliases))
    keys = [of_row(StoredKey, row) for row in db.execute(select(API_KEY).where(wanted))]
    found = {name for key in keys for name in (key.digest, key.id)}
    if not found.issuperset(names):
        raise NotFound("there is no such API key", param="key")
    if missing := set(aliases) - {key.alias for key in keys}:
        raise NotFound(f"there is no API key with the alias {min(missing)[:100]!r}", param="key")
    return keys


def delete_keys(changes: Recorder, names: Collection[str]) -> None:
    """Delete keys by digest or id, in a transaction. Raises NotFound."""
    keys = _read(changes.db, names)
    changes.db.execute(delete(API_KEY).where(_c.id.in_([key.id for key in keys])))
    for key in keys:
        changes.whole("delete", "key", key)


def _check_alias(db: Connection, alias: str | None, key_id: str) -> None:
    if alias is None:
        return
    taken = select(_c.id).where(_c.alias == alias, _c.id != key_id)
    if db.execute(taken).first() is not None:
        raise BadRequest(f"the key_alias {alias[:100]!r} is in use", param="key_alias")


def _check_owners(changes: Recorder, key: StoredKey) -> None:
    """Raises BadRequest if the key's team is unknown. An unknown user is made, as LiteLLM does."""
    if key.team_id is not None:
        team = select(TEAM.c.id).where(TEAM.c.id == key.team_id)
        if changes.db.execute(team).first() is None:
            raise BadRequest(f"there is no team {key.team_id[:100]!r}", param="team_id")
    if key.user_id is not None:
        ensure_user(changes, key.user_id)


def _bound(blocked: bool | None, rights: Any) -> Bound:
    if blocked is None:
        return NO_BOUND
    return Bound(blocked, msgspec.convert(rights, Rights))
