"""Limits how many files, documents and conversations a key may store, and their bytes. They are
checked in the transaction of `begin_for` that adds an object: two cannot both take the last place.
"""

from __future__ import annotations

import math

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from ..errors import QuotaExceeded
from .records import OPEN
from .tables import BATCH_RESULT, CONVERSATION, DOCUMENT, FILES, REQUEST_BATCH, SHARED

MOST_BASES = 10_000  # per key: knowledge bases and vector stores
MOST_CONVERSATIONS = 10_000  # per key
MOST_SHARED = 200  # per key
MOST_MESSAGES = 2000  # per conversation: each question reads them all
# Beyond these, a new one replaces the oldest.
MOST_JOBS = 100  # per base
MOST_BATCHES = 1000  # per base


def check_count(
    db: Connection, table: Table, most: int, refusal: str, *where: ColumnElement[bool]
) -> None:
    """Check a count after adding a row. Raises QuotaExceeded; {} in the refusal is `most`."""
    count = db.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
    if count > most:
        raise QuotaExceeded(refusal.format(most))


def drop_oldest(db: Connection, table: Table, most: int, *where: ColumnElement[bool]) -> None:
    """Keep only the newest `most` rows, after adding one."""
    newest = select(table.c.created).where(*where).order_by(table.c.created.desc())
    last = newest.limit(1).offset(most - 1).scalar_subquery()
    db.execute(delete(table).where(*where, table.c.created < last))


class Quota(Struct, frozen=True):
    """The quota of one key. `bytes` also counts results of unfinished batches. 0: no limit."""

    files: int = 0
    documents: int = 0
    bytes: int = 0

    def check(self, db: Connection, owner: str) -> None:
        """Raises QuotaExceeded."""
        self.check_files(db, owner)
        if self.documents:
            refusal = "an API key may store at most {} documents: delete some"
            check_count(db, DOCUMENT, self.documents, refusal, DOCUMENT.c.owner == owner)
        self.check_bytes(db, owner)

    def check_files(self, db: Connection, owner: str, more: int = 0) -> None:
        """Check the number of files alone, with `more` of them. Raises QuotaExceeded."""
        if self.files:
            refusal = f"an API key may store at most {self.files} files: delete some"
            check_count(db, FILES, self.files - more, refusal, FILES.c.owner == owner)

    def check_bytes(self, db: Connection, owner: str, more: int = 0) -> float:
        """Check the bytes, with `more` of them; return how many are left. Raises QuotaExceeded."""
        if not self.bytes:
            return math.inf
        # The results of batches that are not in files yet.
        batch, result = REQUEST_BATCH.c, BATCH_RESULT.c
        mine = select(batch.id).where(batch.owner == owner, batch.status.in_(OPEN))
        size = func.coalesce(func.sum(func.length(result.data)), 0)
        held = more + int(db.execute(select(size).where(result.batch_id.in_(mine))).scalar_one())
        for table in (FILES, DOCUMENT, CONVERSATION, SHARED):
            size = func.coalesce(func.sum(table.c.size), 0)
            held += int(db.execute(select(size).where(table.c.owner == owner)).scalar_one())
        if held > self.bytes:
            raise QuotaExceeded(
                f"an API key may store at most {self.bytes} bytes of files, documents and"
                " conversations: delete some, or ask for a higher --quota-bytes"
            )
        return self.bytes - held


UNLIMITED = Quota()
