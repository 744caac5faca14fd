"""Users and teams in the database, with their members and keys."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from secrets import token_hex
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, delete, insert, select

from ..accounts.records import Account, Member, Team, User
from ..errors import NotFound
from .account_changes import AccountStore, Recorder, ensure_user
from .api_keys import delete_keys
from .database import Database
from .tables import ACCOUNT_USER, API_KEY, TEAM, TEAM_MEMBER

A = TypeVar("A", bound=Account)
MOST_LISTED = 10_000  # of a team that are read


class Groups(AccountStore[A]):
    def make(self, new: A, actor: str) -> A:
        """Add one with the time of now, and a new id if it has none. Raises as `add`."""
        now = time.time()
        made = msgspec.structs.replace(new, id=new.id or token_hex(12), created=now, changed=now)
        self.add(made, actor)
        return made

    def delete(self, names: Collection[str], actor: str, *, finish_running: bool = False) -> int:
        """Delete these and their keys, or none and raise NotFound; returns how many there were."""
        with self.changing(actor, finish_running) as changes:
            for name in names:
                old = self._read(changes.db, name)
                owned = select(API_KEY.c.id).where(API_KEY.c[f"{self._kind}_id"] == name)
                delete_keys(changes, changes.db.execute(owned).scalars().all())
                members = TEAM_MEMBER.c[f"{self._kind}_id"] == name
                changes.db.execute(delete(TEAM_MEMBER).where(members))
                changes.db.execute(delete(self._table).where(self._table.c.id == name))
                changes.whole("delete", self._kind, old)
        return len(names)

    def members(self, name: str) -> Sequence[Member]:
        """The members of a team, or the memberships of a user."""
        c = TEAM_MEMBER.c
        query = select(TEAM_MEMBER).where(c[f"{self._kind}_id"] == name)
        query = query.order_by(c.team_id, c.user_id).limit(MOST_LISTED)
        return self._db.records(Member, query)

    def join(self, members: Collection[Member], actor: str) -> None:
        """Add members to teams, or change their roles. Unknown users are made. Raises NotFound."""
        with self.changing(actor) as changes:
            for member in members:
                _team(changes.db, member.team_id)
                ensure_user(changes, member.user_id)
                _leave(changes.db, member.team_id, member.user_id)
                changes.db.execute(insert(TEAM_MEMBER).values(**msgspec.structs.asdict(member)))
                _recorded(changes, "member_add", member)

    def leave(self, team_id: str, user_id: str, actor: str) -> None:
        """Remove a member from a team. Raises NotFound if it is none."""
        with self.changing(actor) as changes:
            _team(changes.db, team_id)
            if not _leave(changes.db, team_id, user_id):
                raise NotFound(f"{user_id[:100]!r} is not a member of the team", param="user_id")
            _recorded(changes, "member_delete", Member(team_id, user_id))


def users(database: Database) -> Groups[User]:
    return Groups(database, "user", User, ACCOUNT_USER, ("email",))


def teams(database: Database) -> Groups[Team]:
    return Groups(database, "team", Team, TEAM, ("alias",))


def _team(db: Connection, team_id: str) -> None:
    if db.execute(select(TEAM.c.id).where(TEAM.c.id == team_id)).first() is None:
        raise NotFound(f"there is no team {team_id[:100]!r}", param="team_id")


def _leave(db: Connection, team_id: str, user_id: str) -> int:
    c = TEAM_MEMBER.c
    gone = delete(TEAM_MEMBER).where(c.team_id == team_id, c.user_id == user_id)
    return db.execute(gone).rowcount


def _recorded(changes: Recorder, action: str, member: Member) -> None:
    details = {"user_id": member.user_id, "role": member.role}
    changes.record(action, "team", member.team_id, details)
