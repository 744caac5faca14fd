"""The record of changes of accounts: the audit, and what other processes follow. Numbers of
committed changes have no gaps: each transaction takes its own from the row of `account_state`,
which it locks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import structs
from sqlalchemy import ColumnElement, Connection, Row, Select, func, insert, select, update

from ..accounts.key_cache import FINISH, Change
from ..accounts.records import Account, Entry, StoredKey
from ..accounts.rights import Rights
from .database import Database, S, record
from .tables import ACCOUNT_CHANGE, ACCOUNT_STATE, ACCOUNT_USER

log = logging.getLogger("slotproxy.audit")
_c = ACCOUNT_CHANGE.c
HIDDEN = ("id", "digest", "former_digest", "changed", "created", "created_by")
_encode = msgspec.json.Encoder().encode


def row_of(account: StoredKey | Account) -> dict[str, Any]:
    return {**structs.asdict(account), "rights": msgspec.to_builtins(account.rights)}


def of_row(kind: type[S], row: Row[Any]) -> S:
    return record(kind, row, rights=msgspec.convert(row.rights, Rights))


def _told(account: StoredKey | Account) -> dict[str, Any]:
    """What the record of a change tells: no secrets, which clients may also keep in metadata."""
    fields = {**row_of(account), "metadata": sorted(account.metadata)}
    return {name: value for name, value in fields.items() if name not in HIDDEN}


class Recorder:
    """Records the changes of a transaction. `kind` is key, user or team."""

    def __init__(self, db: Connection, actor: str, finish_running: bool) -> None:
        self.db = db
        self._actor = actor
        self._more = {FINISH: True} if finish_running else {}
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
            details={**details, **self._more},
        )
        self.db.execute(insert(ACCOUNT_CHANGE).values(**structs.asdict(entry)))
        self.entries.append(entry)

    def whole(self, action: str, kind: str, account: StoredKey | Account) -> None:
        self.record(action, kind, account.id, _told(account))

    def differing(
        self, action: str, kind: str, old: StoredKey | Account, new: StoredKey | Account
    ) -> None:
        before, after = _told(old), _told(new)
        values = {name: [before[name], after[name]] for name in after}
        self.record(action, kind, old.id, {k: v for k, v in values.items() if v[0] != v[1]})


class AccountChanges:
    """The base of the stores of keys, users and teams."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @contextmanager
    def changing(self, actor: str, finish_running: bool = False) -> Iterator[Recorder]:
        """Begin a transaction that changes accounts. `finish_running`: requests under way go on."""
        with self._db.begin() as db:
            # Taken first, so that it waits for others before it has read anything.
            db.execute(update(ACCOUNT_STATE).values(number=ACCOUNT_STATE.c.number))
            recorder = Recorder(db, actor, finish_running)
            yield recorder
        for entry in recorder.entries:
            log.info("%s", _encode({"audit": structs.asdict(entry)}).decode())

    def secret(self) -> bytes:
        with self._db.begin() as db:
            return bytes(db.execute(select(ACCOUNT_STATE.c.secret)).scalar_one())

    def newest(self) -> int:
        with self._db.begin() as db:
            return int(db.execute(select(ACCOUNT_STATE.c.number)).scalar_one())

    def changes(self, since: int, most: int) -> Sequence[Change]:
        query = select(_c.number, _c.kind, _c.subject, _c.details).where(_c.number > since)
        rows = self._db.rows(query.order_by(_c.number).limit(most))
        return [
            Change(row.number, row.kind, row.subject, row.details.get(FINISH) is True)
            for row in rows
        ]

    def entries(self, subject: str, before: int | None, limit: int) -> Sequence[Entry]:
        """The last changes, the newest first; of one subject unless it is ""."""
        query = select(ACCOUNT_CHANGE).order_by(_c.number.desc()).limit(limit)
        if subject:
            query = query.where(_c.subject == subject)
        if before is not None:
            query = query.where(_c.number < before)
        return self._db.records(Entry, query)

    def _page(
        self,
        kind: type[S],
        query: Select[Any],
        condition: Sequence[ColumnElement[bool]],
        offset: int,
        limit: int,
    ) -> tuple[int, list[S]]:
        """How many rows fulfil the condition, and a page of them."""
        with self._db.begin() as db:
            whole = select(func.count()).select_from(query.where(*condition).subquery())
            count: int = db.execute(whole).scalar_one()
            page = query.where(*condition).offset(offset).limit(limit)
            return count, [of_row(kind, row) for row in db.execute(page)]


def ensure_user(changes: Recorder, user_id: str) -> None:
    """Make a user without bounds, unless there is one with this id."""
    if (
        changes.db.execute(select(ACCOUNT_USER.c.id).where(ACCOUNT_USER.c.id == user_id)).first()
        is not None
    ):
        return
    now = time.time()
    row = {"id": user_id, "created": now, "changed": now, "blocked": False}
    changes.db.execute(insert(ACCOUNT_USER).values(**row, rights={}, metadata={}))
    changes.record("create", "user", user_id, {})
