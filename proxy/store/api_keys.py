"""API keys in the database, found by the digest of their secret."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, or_, select, update

from ..accounts.key_cache import Change
from ..accounts.records import NO_BOUND, Bound, Entry, Identity, StoredKey, identity_of
from ..accounts.rights import Rights
from ..errors import BadRequest, NotFound
from .account_changes import AccountChanges, Recorder, ensure_user
from .database import Database, containing, record
from .tables import ACCOUNT_USER, API_KEY, TEAM

_c = API_KEY.c


class ApiKeys:
    """Implements `accounts.key_cache.KeyStore`. Every change is recorded with its actor, the
    name of the key that asked for it."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._changes = AccountChanges(database)

    def secret(self) -> bytes:
        return self._changes.secret()

    def newest(self) -> int:
        return self._changes.newest()

    def changes(self, since: int, most: int) -> Sequence[Change]:
        return self._changes.after(since, most)

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]:
        """The last changes of accounts, the newest first; of one subject unless it is ""."""
        return self._changes.entries(subject, before, limit)

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
            _key(row),
            digest or row.digest,
            _bound(row.user_blocked, row.user_rights),
            _bound(row.team_blocked, row.team_rights),
        )

    def read(self, name: str) -> StoredKey:
        """The key with this digest or id. Raises NotFound."""
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
        page = select(API_KEY).where(*condition).order_by(_c.created.desc(), _c.id)
        with self._db.begin() as db:
            count = db.execute(select(func.count()).select_from(API_KEY).where(*condition))
            rows = db.execute(page.offset(offset).limit(limit)).all()
            return count.scalar_one(), [_key(row) for row in rows]

    def check_alias(self, alias: str) -> None:
        """Raises BadRequest if a key has this alias."""
        with self._db.begin() as db:
            _check_alias(db, alias, "")

    def add(self, key: StoredKey, actor: str) -> None:
        """A user that is not known yet is made. Raises BadRequest if the id or the alias is in use
        or the team is unknown."""
        with self._changes.begin(actor) as changes:
            if changes.db.execute(select(_c.id).where(_c.id == key.id)).first() is not None:
                raise BadRequest(f"the key_id {key.id[:100]!r} is in use", param="key_id")
            _check_alias(changes.db, key.alias, key.id)
            _check_owners(changes, key)
            changes.db.execute(insert(API_KEY).values(**_row(key)))
            changes.record("create", "key", key.id, _told(key))

    def change(
        self,
        name: str,
        edit: Callable[[StoredKey], StoredKey],
        actor: str,
        action: str,
        *,
        finish_running: bool = False,
    ) -> StoredKey:
        """Edit the key with this digest or id, in one transaction. Raises NotFound, and BadRequest
        if the alias is in use or the team is unknown."""
        with self._changes.begin(actor, finish_running) as changes:
            (key,) = _read(changes.db, [name])
            new = msgspec.structs.replace(edit(key), changed=time.time())
            _check_alias(changes.db, new.alias, new.id)
            _check_owners(changes, new)
            changes.db.execute(update(API_KEY).where(_c.id == key.id).values(**_row(new)))
            before, after = _told(key), _told(new)
            differing = {k: [before[k], after[k]] for k in after if before[k] != after[k]}
            changes.record(action, "key", key.id, differing)
        return new

    def delete(
        self,
        names: Collection[str],
        aliases: Collection[str],
        actor: str,
        *,
        finish_running: bool = False,
    ) -> list[str]:
        """Delete keys by digest or id, or by alias; returns their digests. Raises NotFound if one
        is missing, and then deletes none."""
        with self._changes.begin(actor, finish_running) as changes:
            keys = _read(changes.db, names, aliases)
            delete_keys(changes, [key.id for key in keys])
        return [key.digest for key in keys]


def _key(row: Row[Any]) -> StoredKey:
    return record(StoredKey, row, rights=msgspec.convert(row.rights, Rights))


def _row(key: StoredKey) -> dict[str, Any]:
    return {**msgspec.structs.asdict(key), "rights": msgspec.to_builtins(key.rights)}


def _read(db: Connection, names: Collection[str], aliases: Collection[str] = ()) -> list[StoredKey]:
    wanted = or_(_c.digest.in_(names), _c.id.in_(names), _c.alias.in_(aliases))
    keys = [_key(row) for row in db.execute(select(API_KEY).where(wanted))]
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
        changes.record("delete", "key", key.id, _told(key))


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


def _told(key: StoredKey) -> dict[str, Any]:
    """What the record of a change tells of a key: of its metadata only the names, since a client
    may keep a secret there."""
    hidden = {"id", "digest", "former_digest", "changed", "created", "created_by"}
    fields = {**_row(key), "metadata": sorted(key.metadata)}
    return {name: value for name, value in fields.items() if name not in hidden}
