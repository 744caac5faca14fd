"""Users and teams in the database, with their keys."""

from __future__ import annotations

import time
from collections.abc import Collection
from secrets import token_hex
from typing import TypeVar

import msgspec
from sqlalchemy import delete, select

from ..accounts.records import Account, Team, User
from .account_changes import AccountStore
from .api_keys import delete_keys
from .database import Database
from .tables import ACCOUNT_USER, API_KEY, TEAM

A = TypeVar("A", bound=Account)


class Groups(AccountStore[A]):
    def make(self, new: A, actor: str) -> A:
        """Add one with the time of now, and a new id if it has none. Raises as `add`."""
        now = time.time()
        made = msgspec.structs.replace(new, id=new.id or token_hex(12), created=now, changed=now)
        self.add(made, actor)
        return made

    def delete(self, names: Collection[str], actor: str) -> int:
        """Delete these and their keys, or none and raise NotFound; returns how many there were."""
        with self.changing(actor) as changes:
            for name in names:
                old = self._read(changes.db, name)
                owned = select(API_KEY.c.id).where(API_KEY.c[f"{self._kind}_id"] == name)
                delete_keys(changes, changes.db.execute(owned).scalars().all())
                changes.db.execute(delete(self._table).where(self._table.c.id == name))
                changes.whole("delete", self._kind, old)
        return len(names)


def users(database: Database) -> Groups[User]:
    return Groups(database, "user", User, ACCOUNT_USER, ("email",))


def teams(database: Database) -> Groups[Team]:
    return Groups(database, "team", Team, TEAM, ("alias",))
