"""Open sign-in sessions in the database, so that all workers see immediately when one ends."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import asdict
from sqlalchemy import delete, insert, select

from .database import Database, owned
from .live import LIFETIME, MOST, MemorySessions, OpenSession
from .quota import drop_oldest
from .tables import SESSION

_c = SESSION.c


class SessionStore:
    def __init__(self, database: Database) -> None:
        self._db = database

    def begin(self, session: OpenSession) -> None:
        with self._db.begin() as db:
            db.execute(delete(SESSION).where(_c.created < session.created - LIFETIME))
            db.execute(insert(SESSION).values(**asdict(session)))
            drop_oldest(db, SESSION, MOST, _c.owner == session.owner)

    def alive(self, session: str, owner: str, now: float) -> bool:
        query = select(_c.id).where(owned(SESSION, owner, session), _c.created >= now - LIFETIME)
        return self._db.first(query) is not None

    def listed(self, owner: str | None, now: float, limit: int) -> Sequence[OpenSession]:
        query = select(SESSION).where(_c.created >= now - LIFETIME)
        if owner is not None:
            query = query.where(_c.owner == owner)
        query = query.order_by(_c.created.desc(), _c.id).limit(limit)
        return self._db.records(OpenSession, query)

    def end(self, session: str, owner: str | None = None) -> bool:
        where = _c.id == session if owner is None else owned(SESSION, owner, session)
        return self._db.change(delete(SESSION).where(where)) > 0

    def end_all(self, owner: str) -> int:
        return self._db.change(delete(SESSION).where(_c.owner == owner))


LiveSessions = MemorySessions | SessionStore
