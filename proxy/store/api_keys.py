"""API keys in the database, found by the digest of their secret, users and teams, and the record of
their changes: the audit, and what other processes follow. Numbers of committed changes have no
gaps: each transaction takes its own from the row of `account_state`, which it locks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from secrets import token_bytes, token_hex, token_urlsafe
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import asdict, replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ..accounts.key_cache import (
    SECRET_BYTES,
    SECRET_PREFIX,
    Change,
    key_digest,
    make_secret,
    shown_secret,
)
from ..accounts.records import (
    MOST_PEOPLE,
    NO_BOUND,
    Account,
    Bound,
    Entry,
    Identity,
    StoredKey,
    Team,
    User,
    identity_of,
)
from ..accounts.rights import Rights
from ..errors import BadRequest, NotFound
from .database import Database, S, containing, record
from .tables import ACCOUNT_CHANGE, ACCOUNT_STATE, ACCOUNT_USER, API_KEY, TEAM

log = logging.getLogger("slotproxy.audit")
A = TypeVar("A", bound=StoredKey | Account)
G = TypeVar("G", bound=Account)
HIDDEN = ("id", "digest", "former_digest", "changed", "created", "created_by")


def row_of(account: StoredKey | Account) -> dict[str, Any]:
    return {**asdict(account), "rights": msgspec.to_builtins(account.rights)}


def of_row(kind: type[S], row: Row[Any]) -> S:
    return record(kind, row, rights=msgspec.convert(row.rights, Rights))


def _shown(account: StoredKey | Account) -> dict[str, Any]:
    """The fields that the audit shows: no secrets, which clients may also keep in metadata."""
    fields = {**row_of(account), "metadata": sorted(account.metadata)}
    return {name: value for name, value in fields.items() if name not in HIDDEN}


class Recorder:
    """Records the changes of a transaction. `kind` is key, user or team."""

    def __init__(self, db: Connection, actor: str) -> None:
        self.db = db
        self._actor = actor
        self.entries: list[Entry] = []

    def record(self, action: str, kind: str, subject: str, details: Mapping[str, Any]) -> None:
        number = ACCOUNT_STATE.c.number
        self.db.execute(update(ACCOUNT_STATE).values(number=number + 1))
        entry = Entry(
            number=self.db.execute(select(number)).scalar_one(),
            at=time.time(),
            actor=self._actor,
            action=action,
            kind=kind,
            subject=subject,
            details=details,
        )
        self.db.execute(insert(ACCOUNT_CHANGE).values(**asdict(entry)))
        self.entries.append(entry)

    def whole(self, action: str, kind: str, account: StoredKey | Account) -> None:
        self.record(action, kind, account.id, _shown(account))

    def differing(
        self, action: str, kind: str, old: StoredKey | Account, new: StoredKey | Account
    ) -> None:
        before, after = _shown(old), _shown(new)
        values = {name: [before[name], after[name]] for name in after}
        self.record(action, kind, old.id, {k: v for k, v in values.items() if v[0] != v[1]})


class AccountStore(Generic[A]):
    """The base of the stores of keys, users and teams; `kind` is one of them. Fields that are
    `unique` may be None. `actor` is the name of the key that asks for a change."""

    def __init__(
        self, database: Database, kind: str, made: type[A], table: Table, unique: Sequence[str]
    ) -> None:
        self._db = database
        self._kind = kind
        self._made = made
        self._table = table
        self._unique = unique
        self._searched = dict.fromkeys(("id", "alias", *unique))
        self._order: Sequence[Any] = (table.c.id,)

    def read(self, name: str) -> A:
        """Raises NotFound."""
        with self._db.begin() as db:
            return self._read(db, name)

    def listed(
        self, filters: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[A]]:
        """How many fit the `filters` and have `search` in a name, and a page of them."""
        c = self._table.c
        condition = [c[name] == value for name, value in filters.items()]
        condition += containing(search, *(c[name] for name in self._searched))
        count = select(func.count()).select_from(self._table).where(*condition)
        page = select(self._table).where(*condition).order_by(*self._order)
        with self._db.begin() as db:
            rows = db.execute(page.offset(offset).limit(limit))
            return db.execute(count).scalar_one(), [of_row(self._made, row) for row in rows]

    def add(self, new: A, actor: str, action: str = "create") -> None:
        """Raises BadRequest for an id, alias or email that is in use."""
        with self.changing(actor) as changes:
            same = select(self._table.c.id).where(self._table.c.id == new.id)
            if changes.db.execute(same).first() is not None:
                raise self._in_use("id", new.id)
            self._check(changes, new)
            changes.db.execute(insert(self._table).values(**row_of(new)))
            changes.whole(action, self._kind, new)

    def change(self, name: str, edit: Callable[[A], A], actor: str, action: str = "update") -> A:
        """Raises NotFound, and BadRequest like `add`."""
        with self.changing(actor) as changes:
            old = self._read(changes.db, name)
            new = replace(edit(old), changed=time.time())
            self._check(changes, new)
            row = update(self._table).where(self._table.c.id == old.id)
            changes.db.execute(row.values(**row_of(new)))
            changes.differing(action, self._kind, old, new)
        return new

    def _read(self, db: Connection, name: str) -> A:
        row = db.execute(select(self._table).where(self._table.c.id == name)).first()
        if row is None:
            raise NotFound(f"there is no {self._kind} {name[:100]!r}", param=f"{self._kind}_id")
        return of_row(self._made, row)

    def _check(self, changes: Recorder, new: A) -> None:
        """Raises BadRequest if something unique is in use."""
        for field in self._unique:
            value = getattr(new, field)
            others = select(self._table.c.id).where(self._table.c[field] == value)
            others = others.where(self._table.c.id != new.id)
            if value is not None and changes.db.execute(others).first() is not None:
                raise self._in_use(field, value)

    def _in_use(self, field: str, value: str) -> BadRequest:
        param = f"{self._kind}_{field}"
        return BadRequest(f"the {param} {value[:100]!r} is in use", param=param)

    @contextmanager
    def changing(self, actor: str) -> Iterator[Recorder]:
        """Begin a transaction that changes accounts."""
        with self._db.begin() as db:
            # Taken first, so that it waits for others before it has read anything.
            db.execute(update(ACCOUNT_STATE).values(number=ACCOUNT_STATE.c.number))
            recorder = Recorder(db, actor)
            yield recorder
        for entry in recorder.entries:
            words = entry.kind, entry.subject, entry.action, entry.actor
            fields = {"audit": msgspec.to_builtins(entry)}
            log.info("%s %s: %s by %s", *words, extra={"fields": fields})


def ensure_user(changes: Recorder, user_id: str) -> None:
    """Make a user without bounds, unless there is one with this id."""
    existing = select(ACCOUNT_USER.c.id).where(ACCOUNT_USER.c.id == user_id)
    if changes.db.execute(existing).first() is not None:
        return
    now = time.time()
    row = {"id": user_id, "created": now, "changed": now, "blocked": False}
    changes.db.execute(insert(ACCOUNT_USER).values(**row, rights={}, metadata={}))
    changes.record("create", "user", user_id, {})


_c = API_KEY.c
_change = ACCOUNT_CHANGE.c

MADE_BY = "made_by"  # in the metadata of a user: the key whose request named it first
INVITATION = "slotproxy_invitation"  # in the metadata of a key: until when it may be accepted
TOKEN_PREFIX = "inv-"  # no key begins so
TOKEN_BYTES = 32  # of randomness


class ApiKeys(AccountStore[StoredKey]):
    """Implements `accounts.key_cache.KeyStore`. A key is named by its secret, digest or id."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "key", StoredKey, API_KEY, ("alias",))
        self._searched |= dict.fromkeys(("shown", "user_id", "team_id"))
        self._order = (_c.created.desc(), _c.id)  # the newest first

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

    def person(self, who: User, key: str) -> tuple[str, Bound] | None:
        """Implements KeyStore. A user with this name as email is the same person."""
        user = ACCOUNT_USER.c
        same = or_(user.id == who.id, user.email == who.id)
        query = select(ACCOUNT_USER).where(same).order_by(user.id != who.id)
        made = select(func.count()).where(user.metadata[MADE_BY].as_string() == key)
        row = self._db.first(query)
        if row is None:
            count = self._db.first(made)
            if count is not None and count[0] >= MOST_PEOPLE:
                return None
            with self.changing(key) as changes:
                row = changes.db.execute(query).first()
                if row is None:  # nor has another request made it meanwhile
                    now = time.time()
                    metadata = {**who.metadata, MADE_BY: key}
                    new = replace(who, created=now, changed=now, metadata=metadata)
                    changes.db.execute(insert(ACCOUNT_USER).values(**row_of(new)))
                    changes.whole("create", "user", new)
                    return new.id, NO_BOUND
        return row.id, _bound(row.blocked, row.rights)

    def check_alias(self, alias: str) -> None:
        """Raises BadRequest if a key has this alias."""
        if self._db.first(select(_c.id).where(_c.alias == alias)) is not None:
            raise self._in_use("alias", alias)

    def make(self, key: StoredKey, actor: str) -> tuple[str, StoredKey]:
        """Add a key with a new secret, and a new id if it has none. The secret is not stored."""
        return self._make(key, make_secret(token_bytes(SECRET_BYTES)), actor, "create")

    def invite(self, key: StoredKey, until: float, actor: str) -> tuple[str, StoredKey]:
        """Add a key that is blocked, and has no secret before `accept`. Returns the token that
        accepts it until this time. It is stored as a secret is: only its digest."""
        marked = {**key.metadata, INVITATION: until}
        token = TOKEN_PREFIX + token_urlsafe(TOKEN_BYTES)
        return self._make(replace(key, blocked=True, metadata=marked), token, actor, "invite")

    def accept(self, token: str) -> tuple[str, StoredKey]:
        """Give the key of an invitation its secret, once. Raises NotFound. The token is found by a
        digest with the secret of the store: the time that takes says nothing about a token."""

        def begin(key: StoredKey) -> StoredKey:
            until = key.metadata.get(INVITATION)
            if not isinstance(until, int | float) or until < time.time():
                raise NotFound("this invitation has expired")
            rest = {name: value for name, value in key.metadata.items() if name != INVITATION}
            return replace(key, blocked=False, metadata=rest)

        if not token.startswith(TOKEN_PREFIX):
            raise NotFound("this is no invitation")
        name = key_digest(token, self.secret())
        return self.regenerate(name, begin, 0.0, "invitation", "accept")

    def _make(self, key: StoredKey, secret: str, actor: str, action: str) -> tuple[str, StoredKey]:
        now = time.time()
        made = replace(
            key,
            id=key.id or f"key_{token_hex(12)}",
            digest=key_digest(secret, self.secret()),
            shown=shown_secret(secret),
            created=now,
            created_by=actor,
            changed=now,
        )
        self.add(made, actor, action)
        return secret, made

    def regenerate(
        self,
        name: str,
        edit: Callable[[StoredKey], StoredKey],
        grace: float,
        actor: str,
        action: str = "regenerate",
    ) -> tuple[str, StoredKey]:
        """Edit a key and give it a new secret; the present one stays for `grace` seconds."""
        secret = make_secret(token_bytes(SECRET_BYTES))
        digest, until = key_digest(secret, self.secret()), time.time() + grace

        def renew(key: StoredKey) -> StoredKey:
            return replace(
                edit(key),
                digest=digest,
                shown=shown_secret(secret),
                former_digest=key.digest if grace else None,
                former_until=until if grace else 0.0,
            )

        return secret, self.change(name, renew, actor, action)

    def delete(self, names: Collection[str], aliases: Collection[str], actor: str) -> list[str]:
        """Delete all these keys, or none and raise NotFound; returns their digests."""
        with self.changing(actor) as changes:
            return [key.digest for key in _delete_keys(changes, names, aliases)]

    def secret(self) -> bytes:
        row = self._db.first(select(ACCOUNT_STATE.c.secret))
        assert row is not None, "it is made with the tables"
        return bytes(row.secret)

    def newest(self) -> int:
        row = self._db.first(select(ACCOUNT_STATE.c.number))
        return 0 if row is None else int(row.number)

    def changes(self, since: int, most: int) -> Sequence[Change]:
        query = select(ACCOUNT_CHANGE).where(_change.number > since)
        rows = self._db.rows(query.order_by(_change.number).limit(most))
        return [Change(row.number, row.kind, row.subject) for row in rows]

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]:
        """The last changes, the newest first; of one subject unless it is ""."""
        query = select(ACCOUNT_CHANGE).order_by(_change.number.desc()).limit(limit)
        if subject:
            query = query.where(_change.subject == subject)
        if before is not None:
            query = query.where(_change.number < before)
        return self._db.records(Entry, query)

    def _read(self, db: Connection, name: str) -> StoredKey:
        (key,) = _read(db, [name])
        return key

    def _check(self, changes: Recorder, new: StoredKey) -> None:
        """Raises BadRequest, also for an unknown team. An unknown user is made, as LiteLLM does."""
        super()._check(changes, new)
        if new.team_id is not None:
            team = select(TEAM.c.id).where(TEAM.c.id == new.team_id)
            if changes.db.execute(team).first() is None:
                raise BadRequest(f"there is no team {new.team_id[:100]!r}", param="team_id")
        if new.user_id is not None:
            ensure_user(changes, new.user_id)


def _read(db: Connection, names: Collection[str], aliases: Collection[str] = ()) -> list[StoredKey]:
    """Keys by secret, digest, id or alias. Raises NotFound if one is missing."""
    secret = bytes(db.execute(select(ACCOUNT_STATE.c.secret)).scalar_one())
    names = [key_digest(name, secret) if name.startswith(SECRET_PREFIX) else name for name in names]
    matches = or_(_c.digest.in_(names), _c.id.in_(names), _c.alias.in_(aliases))
    keys = [of_row(StoredKey, row) for row in db.execute(select(API_KEY).where(matches))]
    read = {name for key in keys for name in (key.digest, key.id)}
    if not read.issuperset(names):
        raise NotFound("there is no such API key", param="key")
    if missing := set(aliases) - {key.alias for key in keys}:
        raise NotFound(f"there is no API key with the alias {min(missing)[:100]!r}", param="key")
    return keys


def _delete_keys(
    changes: Recorder, names: Collection[str], aliases: Collection[str] = ()
) -> list[StoredKey]:
    """Delete keys, in a transaction. Raises as `_read`."""
    keys = _read(changes.db, names, aliases)
    changes.db.execute(delete(API_KEY).where(_c.id.in_([key.id for key in keys])))
    for key in keys:
        changes.whole("delete", "key", key)
    return keys


def _bound(blocked: bool | None, rights: Any) -> Bound:
    if blocked is None:
        return NO_BOUND
    return Bound(blocked, msgspec.convert(rights, Rights))


class Groups(AccountStore[G]):
    """Users or teams, with their keys."""

    def make(self, new: G, actor: str) -> G:
        """Add one with the time of now, and a new id if it has none. Raises as `add`."""
        now = time.time()
        made = replace(new, id=new.id or token_hex(12), created=now, changed=now)
        self.add(made, actor)
        return made

    def delete(self, names: Collection[str], actor: str) -> int:
        """Delete these and their keys, or none and raise NotFound; returns how many there were."""
        with self.changing(actor) as changes:
            for name in names:
                old = self._read(changes.db, name)
                owned = select(API_KEY.c.id).where(API_KEY.c[f"{self._kind}_id"] == name)
                _delete_keys(changes, changes.db.execute(owned).scalars().all())
                changes.db.execute(delete(self._table).where(self._table.c.id == name))
                changes.whole("delete", self._kind, old)
        return len(names)


def users(database: Database) -> Groups[User]:
    return Groups(database, "user", User, ACCOUNT_USER, ("email",))


def teams(database: Database) -> Groups[Team]:
    return Groups(database, "team", Team, TEAM, ("alias",))
