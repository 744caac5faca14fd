"""Vectors of texts that were indexed before, by owner and digest of the text.

They outlast their bases, so that a base that is created again finds them. Each owner has its own:
an answer that comes sooner would tell that another one has the text. All together are bounded; the
longest unused are deleted, many at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, func, select, update

from .database import Database, insert_into
from .tables import BASE, TEXT_VECTOR

MOST = 256 << 20  # bytes: about 110 000 vectors of 512 dimensions
ENTRY = 300  # bytes of a row besides the vector, with its indexes
SLACK = 8  # a part of this many of the bytes is written between two looks at the bound
RECENT = 3600.0  # seconds in which a row counts as used once

_c = TEXT_VECTOR.c


class TextVectors:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._written = MOST  # bytes since the last look at the bound; look at the first write

    def recall(self, base: str, digests: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The vectors of the base's owner with these digests."""
        now = time.time()
        with self._db.begin() as db:
            owner = select(BASE.c.owner).where(BASE.c.id == base).scalar_subquery()
            ours = (_c.owner == owner, _c.digest.in_(digests))
            found = db.execute(select(_c.digest, _c.vector, _c.used).where(*ours)).all()
            if any(row.used < now - RECENT for row in found):
                db.execute(update(TEXT_VECTOR).where(*ours).values(used=now))
        return {row.digest: row.vector for row in found}

    def keep(self, base: str, vectors: Mapping[bytes, bytes]) -> None:
        """Keep the vectors for the base's owner, unless the base was deleted in the meantime."""
        now = time.time()
        rows = [
            {"digest": key, "vector": vector, "size": len(vector) + ENTRY, "used": now}
            for key, vector in sorted(vectors.items())  # two writers lock in the same order
        ]
        with self._db.begin() as db:
            owner = _owner(db, base)
            if owner is None:
                return
            values = [{"owner": owner, **row} for row in rows]
            db.execute(insert_into(TEXT_VECTOR, db).on_conflict_do_nothing(), values)
            self._written += sum(len(vector) + ENTRY for vector in vectors.values())
            if self._written >= MOST // SLACK:
                _make_room(db)
                self._written = 0


def _owner(db: Connection, base: str) -> str | None:
    """The owner of a base. It is locked by a write without effect: a deletion of the base, and
    then of the owner's vectors, comes after the transaction."""
    touched = update(BASE).where(BASE.c.id == base).values(owner=BASE.c.owner)
    owner: str | None = db.execute(touched.returning(BASE.c.owner)).scalar()
    return owner


def _make_room(db: Connection) -> None:
    """Delete the longest unused, so that what is written before the next look has room."""
    order = (_c.used.desc(), _c.owner, _c.digest)
    size = func.sum(_c.size).over(order_by=order, rows=(None, 0)).label("size")
    counted = select(_c.used, size).subquery()
    unused = select(func.max(counted.c.used)).where(counted.c.size > MOST - MOST // SLACK)
    last: float | None = db.execute(unused).scalar()
    if last is not None:
        db.execute(delete(TEXT_VECTOR).where(_c.used <= last))
