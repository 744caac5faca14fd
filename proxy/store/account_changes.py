"""The record of changes of accounts: the audit, and what other processes follow. Numbers of
committed changes have no gaps: each transaction takes its own from the row of `account_state`,
which it locks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import structs
from sqlalchemy import Connection, Row, Table, func, insert, select, update

from ..accounts.records import Account, Entry, StoredKey
from ..accounts.rights import Rights
from ..errors import BadRequest, NotFound
from .database import Database, S, containing, record
from .tables import ACCOUNT_CHANGE, ACCOUNT_STATE, ACCOUNT_USER

log = logging.getLogger("slotproxy.audit")
A = TypeVar("A", bound=StoredKey | Account)
HIDDEN = ("id", "digest", "former_digest", "changed", "created", "created_by")


def row_of(account: StoredKey | Account) -> dict[str, Any]:
    return {**structs.asdict(account), "rights": msgspec.to_builtins(account.rights)}


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
        self.db.execute(insert(ACCOUNT_CHANGE).values(**structs.asdict(entry)))
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
        self, wanted: Mapping[str, str], offset: int, limit: int, *, search: str = ""
    ) -> tuple[int, list[A]]:
        """How many fit `wanted` and have `search` in a name, and a page of them."""
        c = self._table.c
        condition = [c[name] == value for name, value in wanted.items()]
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
            new = structs.replace(edit(old), changed=time.time())
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
            taken = select(self._table.c.id).where(self._table.c[field] == value)
            taken = taken.where(self._table.c.id != new.id)
            if value is not None and changes.db.execute(taken).first() is not None:
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
