"""Copies of branches of conversations that their owners share. Who knows the id of one may read
it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import delete, insert, select

from ..errors import InvalidParameter, NotFound
from .database import Database, owned
from .quota import MOST_SHARED, Quota, check_count
from .tables import SHARED

LARGEST = 16 << 20  # bytes of a copy: a page has all of it
TOO_MANY = "an API key may share at most {} conversations: delete some of its links"


class SharedConversation(Struct, frozen=True):
    """`messages` are what the page wrote. `created` is in seconds since 1970."""

    id: str
    owner: str
    created: float
    title: str
    messages: list[dict[str, Any]]


class Link(Struct, frozen=True):
    id: str
    created: float
    title: str


class SharedStore:
    def __init__(self, database: Database, clock: Callable[[], float], quota: Quota) -> None:
        self._db, self._clock, self._quota = database, clock, quota

    def add(
        self, owner: str, conversation: str, title: str, messages: Sequence[dict[str, Any]]
    ) -> Link:
        """Keep a copy. Raises InvalidParameter, NotFound and QuotaExceeded."""
        link = Link(secrets.token_urlsafe(16), self._clock(), title)
        row = {"owner": owner, "conversation_id": conversation, "messages": list(messages)}
        size = len(msgspec.json.encode(messages))
        if size > LARGEST:
            raise InvalidParameter("leaf", "ends a branch that is too large to be shared")
        with self._db.begin_for(owner) as db:
            db.execute(insert(SHARED).values(**row, **msgspec.structs.asdict(link), size=size))
            check_count(db, SHARED, MOST_SHARED, TOO_MANY, SHARED.c.owner == owner)
            self._quota.check(db, owner)
        return link

    def links(self, owner: str, conversation: str) -> Sequence[Link]:
        """The copies of a conversation, the newest first."""
        row = SHARED.c
        query = select(row.id, row.created, row.title)
        query = query.where(row.owner == owner, row.conversation_id == conversation)
        return self._db.records(Link, query.order_by(row.created.desc()))

    def read(self, link: str) -> SharedConversation:
        """Raises NotFound."""
        shared = self._db.one(SharedConversation, select(SHARED).where(SHARED.c.id == link))
        if shared is None:
            raise NotFound("there is no such page, or it is no longer shared")
        return shared

    def remove(self, owner: str, link: str) -> None:
        """Raises NotFound."""
        if not self._db.change(delete(SHARED).where(owned(SHARED, owner, link))):
            raise NotFound("this link does not exist")
