"""Open sign-in sessions in the database, so that all workers see immediately when one ends."""

from __future__ import annotations

from sqlalchemy import delete, insert, or_, select

from .database import Database, owned
from .live import LIFETIME, MOST
from .tables import SESSION

_c = SESSION.c


class SessionStore:
    def __init__(self, database: Database) -> None:
        self._db = database

    def begin(self, session: str, owner: str, now: float) -> None:
        newest = (
            select(_c.id)
            .where(_c.owner == owner)
            .order_by(_c.created.desc(), _c.id)
            .limit(MOST - 1)
            .subquery()
        )
        beyond = (_c.owner == owner) & _c.id.not_in(select(newest.c.id))
        with self._db.begin() as db:
            db.execute(delete(SESSION).where(or_(beyond, _c.created < now - LIFETIME)))
            db.execute(insert(SESSION).values(id=session, owner=owner, created=now))

    def alive(self, session: str, owner: str, now: float) -> bool:
        query = select(_c.id).where(owned(SESSION, owner, session), _c.created >= now - LIFETIME)
        return self._db.first(query) is not None

    def end(self, session: str) -> None:
        self._db.change(delete(SESSION).where(_c.id == session))

    def end_all(self, owner: str) -> int:
        return self._db.change(delete(SESSION).where(_c.owner == owner))
