"""Open sign-in sessions in the database, so that all workers see immediately when one ends."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, or_, select

from .live import LIFETIME, MOST
from .tables import SESSION

_c = SESSION.c


class SessionStore:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, session: str, owner: str, now: float) -> None:
        newest = (
            select(_c.id)
            .where(_c.owner == owner)
            .order_by(_c.created.desc(), _c.id)
            .limit(MOST - 1)
            .subquery()
        )
        beyond = (_c.owner == owner) & _c.id.not_in(select(newest.c.id))
        with self._engine.begin() as connection:
            connection.execute(delete(SESSION).where(or_(beyond, _c.created < now - LIFETIME)))
            connection.execute(insert(SESSION).values(id=session, owner=owner, created=now))

    def alive(self, session: str, owner: str, now: float) -> bool:
        session_query = select(_c.id).where(
            _c.id == session, _c.owner == owner, _c.created >= now - LIFETIME
        )
        with self._engine.connect() as connection:
            return connection.execute(session_query).first() is not None

    def end(self, session: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(delete(SESSION).where(_c.id == session))

    def end_all(self, owner: str) -> int:
        with self._engine.begin() as connection:
            return connection.execute(delete(SESSION).where(_c.owner == owner)).rowcount
