"""Limits how many files, documents and conversations a key may store, and their bytes.

The quota is checked in the transaction that adds an object, after its row is written and before its
bytes are. If the quota is exceeded, the transaction is rolled back; and two concurrent additions
cannot both take the last place.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from ..errors import QuotaExceeded
from .tables import CONVERSATION, DOCUMENT, FILES

MOST_BASES = 10_000  # per key: knowledge bases and vector stores
MOST_CONVERSATIONS = 10_000  # per key
MOST_MESSAGES = 2000  # per conversation: each question reads them all
# Beyond these, a new rating replaces the oldest.
MOST_RATINGS = 10_000  # per key
MOST_JOBS = 100  # per base
MOST_BATCHES = 1000  # per base


def check_count(
    db: Connection, table: Table, most: int, refusal: str, *where: ColumnElement[bool]
) -> None:
    """Check a count after adding a row. Raises QuotaExceeded with the message `refusal` if there
    are more than `most`."""
    count = db.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
    if count > most:
        raise QuotaExceeded(refusal)


def drop_oldest(db: Connection, table: Table, most: int, *where: ColumnElement[bool]) -> None:
    """Keep only the newest `most` rows, after adding one."""
    newest = select(table.c.created).where(*where).order_by(table.c.created.desc())
    last = newest.limit(1).offset(most - 1).scalar_subquery()
    db.execute(delete(table).where(*where, table.c.created < last))


class Quota(Struct, frozen=True):
    """The quota of one key. `bytes` counts files, documents and questions, including images. 0
    means no limit."""

    files: int = 0
    documents: int = 0
    bytes: int = 0

    def check(self, db: Connection, owner: str) -> None:
        """Raises QuotaExceeded."""
        if not (self.files or self.documents or self.bytes):
            return
        counts, sizes = [], []
        for table in (FILES, DOCUMENT, CONVERSATION):
            held = select(func.count(), func.coalesce(func.sum(table.c.size), 0))
            count, size = db.execute(held.where(table.c.owner == owner)).one()
            counts.append(count)
            sizes.append(size)
        everything = "bytes of files, documents and conversations"
        for count, most, what, setting in (
            (counts[0], self.files, "files", "--quota-files"),
            (counts[1], self.documents, "documents", "--quota-documents"),
            (sum(sizes), self.bytes, everything, "--quota-bytes"),
        ):
            if most and count > most:
                raise QuotaExceeded(
                    f"an API key may store at most {most} {what}: delete some, or ask for a"
                    f" higher {setting}"
                )


UNLIMITED = Quota()
