"""Data of OpenAI's files and vector stores that knowledge bases and documents do not have.

It stores uploaded files, in bases or not; the file of each document, with its attributes; batches;
and the settings of vector stores. Every row has an owner, and each call sees only its owner's rows.
Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, TypeVar

from msgspec import Struct, structs
from sqlalchemy import ColumnElement, Engine, Row, Table, delete, insert, select

from . import blobs
from .database import insert_into
from .quota import MOST_BATCHES, Quota, drop_oldest
from .tables import ATTACHED, BATCHES, CONTENTS, FILES, KEPT

T = TypeVar("T")


class StoredFile(Struct, frozen=True, kw_only=True):
    """`size` is in bytes; `expires` None means never."""

    file_id: str
    filename: str
    purpose: str
    size: int
    created: float
    expires: float | None = None


class StoredVectorStore(Struct, frozen=True):
    """Settings of a vector store: it expires `lasts` days after it was last `active`; None:
    never."""

    base_id: str
    metadata: dict[str, str]
    lasts: int | None
    active: float


class Attached(Struct, frozen=True, kw_only=True):
    """A file in a vector store: its document, batch and attributes, and the tokens of its chunks
    and their overlap. `error` says why it has no document."""

    base_id: str
    file_id: str
    document_id: str
    batch_id: str
    attributes: dict[str, Any]
    tokens: int
    overlap: int
    created: float
    error: str = ""


class Batch(Struct, frozen=True):
    batch_id: str
    base_id: str
    created: float
    cancelled: bool = False


class FileStore:
    """Every call may raise StoreUnavailable."""

    def __init__(self, engine: Engine, quota: Quota = Quota()) -> None:  # noqa: B008
        self._engine = engine
        self._quota = quota

    def put(self, owner: str, file: StoredFile, data: IO[bytes]) -> None:
        """Raises QuotaExceeded."""
        with self._engine.begin() as db:
            db.execute(insert(FILES).values(owner=owner, **structs.asdict(file)))
            self._quota.check(db, owner)
            blobs.put(db, CONTENTS, file.file_id, data)

    def get(self, owner: str, file_id: str) -> StoredFile | None:
        rows = self._all(FILES, FILES.c.owner == owner, FILES.c.file_id == file_id)
        return _read(StoredFile, rows[0]) if rows else None

    def all(self, owner: str) -> list[StoredFile]:
        """Return all files, oldest first."""
        return [_read(StoredFile, row) for row in self._all(FILES, FILES.c.owner == owner)]

    def expired(self, owner: str, now: float) -> list[StoredFile]:
        rows = self._all(FILES, FILES.c.owner == owner, FILES.c.expires <= now)
        return [_read(StoredFile, row) for row in rows]

    def content(self, file_id: str) -> Iterator[bytes]:
        """Return the bytes of a file that `get` has returned, in pieces."""
        return blobs.read(self._engine, CONTENTS, file_id)

    def delete(self, owner: str, file_id: str) -> bool:
        """Delete a file; return whether it existed."""
        with self._engine.begin() as db:
            gone = db.execute(
                delete(FILES).where(FILES.c.owner == owner, FILES.c.file_id == file_id)
            )
        return gone.rowcount > 0

    def keep(self, owner: str, kept: StoredVectorStore) -> None:
        self._replace(KEPT, owner, kept)

    def kept(self, owner: str, base_id: str) -> StoredVectorStore | None:
        rows = self._all(KEPT, KEPT.c.owner == owner, KEPT.c.base_id == base_id)
        return _read(StoredVectorStore, rows[0]) if rows else None

    def attach(self, owner: str, attached: Attached) -> None:
        self._replace(ATTACHED, owner, attached)

    def attached(self, owner: str, base_id: str) -> list[Attached]:
        rows = self._all(ATTACHED, ATTACHED.c.owner == owner, ATTACHED.c.base_id == base_id)
        return [_read(Attached, row) for row in rows]

    def places(self, owner: str, file_id: str) -> list[Attached]:
        """Return the vector stores' entries for a file."""
        rows = self._all(ATTACHED, ATTACHED.c.owner == owner, ATTACHED.c.file_id == file_id)
        return [_read(Attached, row) for row in rows]

    def detach(self, owner: str, base_id: str, file_id: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                delete(ATTACHED).where(
                    ATTACHED.c.owner == owner,
                    ATTACHED.c.base_id == base_id,
                    ATTACHED.c.file_id == file_id,
                )
            )

    def begin(self, owner: str, batch: Batch) -> None:
        """Store a new or changed batch."""
        self._replace(BATCHES, owner, batch)
        with self._engine.begin() as db:
            drop_oldest(db, BATCHES, MOST_BATCHES, BATCHES.c.base_id == batch.base_id)

    def batch(self, owner: str, batch_id: str) -> Batch | None:
        rows = self._all(BATCHES, BATCHES.c.owner == owner, BATCHES.c.batch_id == batch_id)
        return _read(Batch, rows[0]) if rows else None

    def _all(self, table: Table, *where: ColumnElement[bool]) -> list[Row[Any]]:
        wanted = select(table).where(*where)
        if "created" in table.c:
            wanted = wanted.order_by(table.c.created)
        with self._engine.connect() as db:
            return list(db.execute(wanted))

    def _replace(self, table: Table, owner: str, value: Struct) -> None:
        """Insert a row, or replace the row with this key if it belongs to the owner."""
        fields = structs.asdict(value)
        with self._engine.begin() as db:
            row = insert_into(table, db).values(owner=owner, **fields)
            replaced = row.on_conflict_do_update(
                index_elements=list(table.primary_key), set_=fields, where=table.c.owner == owner
            )
            db.execute(replaced)


def _read(kind: type[T], row: Row[Any]) -> T:
    values = row._asdict()
    del values["owner"]
    return kind(**values)
