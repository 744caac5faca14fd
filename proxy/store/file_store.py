"""Data of OpenAI's files and vector stores that knowledge bases and documents do not have. Each
call sees only its owner's rows. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, islice
from typing import IO, Any

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, Table, delete, insert, literal, select

from .database import Database, insert_into
from .quota import MOST_BATCHES, UNLIMITED, Quota, drop_oldest
from .tables import ATTACHED, BATCHES, CONTENTS, FILES, VECTOR_STORES

# Files are in rows of a table of pieces: the owning row's id, `number` (from 0) and `data`.
PIECE = 256 << 10  # bytes


def put_pieces(db: Connection, table: Table, key: str, data: IO[bytes]) -> None:
    (whose,) = table.foreign_keys
    for number, part in enumerate(iter(lambda: data.read(PIECE), b"")):
        row = {whose.parent.name: key, "number": number, "data": part}
        db.execute(insert(table).values(row))


def copy(db: Connection, table: Table, key: str, source: Table, source_key: str) -> None:
    (whose,), (theirs,) = table.foreign_keys, source.foreign_keys
    same = select(literal(key), source.c.number, source.c.data).where(theirs.parent == source_key)
    db.execute(insert(table).from_select([whose.parent.name, "number", "data"], same))


def read(database: Database, table: Table, key: str) -> Iterator[bytes]:
    """Yield the pieces, each in a transaction of its own; ends early if the file is deleted. The
    first is read at once, and may raise StoreUnavailable."""
    numbers = count()
    pieces = iter(lambda: piece(database, table, key, next(numbers)), None)
    return chain([*islice(pieces, 1)], pieces)


def piece(database: Database, table: Table, key: str, number: int) -> bytes | None:
    (whose,) = table.foreign_keys
    query = select(table.c.data).where(whose.parent == key, table.c.number == number)
    row = database.first(query)
    return None if row is None else row.data


class StoredFile(Struct, frozen=True, kw_only=True):
    """`size` is in bytes; `expires` None means never."""

    file_id: str
    filename: str
    purpose: str
    size: int
    created: float
    expires: float | None = None


class StoredVectorStore(Struct, frozen=True):
    """A vector store expires `lasts` days after it was last `active`; None: never."""

    base_id: str
    metadata: dict[str, str]
    lasts: int | None
    active: float


class Attached(Struct, frozen=True, kw_only=True):
    """A file in a vector store, with the tokens of its chunks. `error`: why it has no document."""

    base_id: str
    file_id: str
    document_id: str
    created: float
    batch_id: str = ""
    attributes: dict[str, Any] = {}
    tokens: int = 0
    overlap: int = 0
    error: str = ""


class Batch(Struct, frozen=True):
    batch_id: str
    base_id: str
    created: float
    cancelled: bool = False


class FileStore:
    """Every call may raise StoreUnavailable."""

    def __init__(self, database: Database, quota: Quota = UNLIMITED) -> None:
        self._db = database
        self._quota = quota

    def put(self, owner: str, file: StoredFile, data: IO[bytes]) -> None:
        """Raises QuotaExceeded."""
        with self._db.begin_for(owner) as db:
            db.execute(insert(FILES).values(owner=owner, **asdict(file)))
            self._quota.check(db, owner)
            put_pieces(db, CONTENTS, file.file_id, data)

    def get(self, owner: str, file_id: str) -> StoredFile | None:
        return self._db.one(StoredFile, select(FILES).filter_by(owner=owner, file_id=file_id))

    def all(self, owner: str) -> list[StoredFile]:
        query = select(FILES).filter_by(owner=owner).order_by(FILES.c.created)
        return self._db.records(StoredFile, query)

    def expired(self, owner: str, now: float) -> list[StoredFile]:
        query = select(FILES).where(FILES.c.owner == owner, FILES.c.expires <= now)
        return self._db.records(StoredFile, query)

    def content(self, file_id: str) -> Iterator[bytes]:
        """Return the bytes of a file that `get` has returned, in pieces."""
        return read(self._db, CONTENTS, file_id)

    def delete(self, owner: str, file_id: str) -> bool:
        return self._db.change(delete(FILES).filter_by(owner=owner, file_id=file_id)) > 0

    def put_store(self, owner: str, stored: StoredVectorStore) -> None:
        self._replace(VECTOR_STORES, owner, stored)

    def get_store(self, owner: str, base_id: str) -> StoredVectorStore | None:
        query = select(VECTOR_STORES).filter_by(owner=owner, base_id=base_id)
        return self._db.one(StoredVectorStore, query)

    def attach(self, owner: str, attached: Attached) -> None:
        self._replace(ATTACHED, owner, attached)

    def attached(self, owner: str, **values: str) -> list[Attached]:
        """Return the entries of a vector store (`base_id`) or a file (`file_id`)."""
        query = select(ATTACHED).filter_by(owner=owner, **values).order_by(ATTACHED.c.created)
        return self._db.records(Attached, query)

    def detach(self, owner: str, base_id: str, file_id: str) -> None:
        entry = {"owner": owner, "base_id": base_id, "file_id": file_id}
        self._db.change(delete(ATTACHED).filter_by(**entry))

    def put_batch(self, owner: str, batch: Batch) -> None:
        self._replace(BATCHES, owner, batch)
        with self._db.begin() as db:
            drop_oldest(db, BATCHES, MOST_BATCHES, BATCHES.c.base_id == batch.base_id)

    def batch(self, owner: str, batch_id: str) -> Batch | None:
        return self._db.one(Batch, select(BATCHES).filter_by(owner=owner, batch_id=batch_id))

    def _replace(self, table: Table, owner: str, value: Struct) -> None:
        """Insert a row, or replace the row with this key if it belongs to the owner."""
        fields = asdict(value)
        with self._db.begin() as db:
            row = insert_into(table, db).values(owner=owner, **fields)
            key, mine = list(table.primary_key), table.c.owner == owner
            db.execute(row.on_conflict_do_update(index_elements=key, set_=fields, where=mine))
