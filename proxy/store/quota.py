"""How much one key may keep: files, documents and conversations, and their bytes.

It is checked in the transaction that adds one, after its row was written and before its bytes are:
where it is too much, nothing of it stays, and two that come together cannot both be the last one.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from ..errors import QuotaExceeded
from .tables import CONVERSATION, DOCUMENT, FILES

MOST_BASES = 10_000  # of a key: knowledge bases and vector stores
MOST_CONVERSATIONS = 10_000  # of a key
MOST_MESSAGES = 2000  # of a conversation: each question reads them all
# Beyond these the oldest goes for a new one.
MOST_RATINGS = 10_000  # of a key
MOST_JOBS = 100  # of a base
MOST_BATCHES = 1000  # of a base


def check_count(
    db: Connection, table: Table, most: int, told: str, *where: ColumnElement[bool]
) -> None:
    """After a row was added. Raises QuotaExceeded, which says `told`, where there are more than
    `most`."""
    count = db.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
    if count > most:
        raise QuotaExceeded(told)


def drop_oldest(db: Connection, table: Table, most: int, *where: ColumnElement[bool]) -> None:
    """After a row was added: only the newest `most` stay."""
    newest = select(table.c.created).where(*where).order_by(table.c.created.desc())
    last = newest.limit(1).offset(most - 1).scalar_subquery()
    db.execute(delete(table).where(*where, table.c.created < last))


class Quota(Struct, frozen=True):
    """Of one key; `bytes` are of files, documents and what was asked in conversations, images
    included, together. 0: any number."""

    files: int = 0
    documents: int = 0
    bytes: int = 0

    def check(self, db: Connection, owner: str) -> None:
        """Raises QuotaExceeded."""
        if not (self.files or self.documents or self.bytes):
            return
        size = func.coalesce(func.sum(FILES.c.size), 0)
        files = db.execute(select(func.count(), size).where(FILES.c.owner == owner)).one()
        size = func.coalesce(func.sum(DOCUMENT.c.size), 0)
        documents = db.execute(select(func.count(), size).where(DOCUMENT.c.owner == owner)).one()
        size = func.coalesce(func.sum(CONVERSATION.c.size), 0)
        asked = db.execute(select(size).where(CONVERSATION.c.owner == owner)).scalar_one()
        held = (
            (files[0], self.files, "files", "--quota-files"),
            (documents[0], self.documents, "documents", "--quota-documents"),
            (
                files[1] + documents[1] + asked,
                self.bytes,
                "bytes of files, documents and conversations",
                "--quota-bytes",
            ),
        )
        for count, most, what, setting in held:
            if most and count > most:
                raise QuotaExceeded(
                    f"a key may keep {most} {what}: delete some, or ask for a higher {setting}"
                )
